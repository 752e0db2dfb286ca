r"""A density ratio of real and generated images, fitted and calibrated: the weight that corrects a generator's codes.

A generator maps z ~ q = N(0, I) to images of law p_g; the data have law p_d. I-SIR, MALA or rejection with the weight

    w(z) = p_d(G(z)) / p_g(G(z)),     target q(z) w(z),

give images of law p_d, as far as G can make them (Azadi et al. 2019, "Discriminator Rejection Sampling", arXiv
1810.06758; Che et al. 2020, "Your GAN is Secretly an Energy-based Model", arXiv 2003.06060). A WGAN critic is no such
ratio: its differences are distances in pixels, not log odds. The logit of a classifier of real against generated
images is: with both sides weighted alike, the minimiser of the log loss is log p_d / p_g (Goodfellow et al. 2014,
"Generative Adversarial Nets", Proposition 1). Three things are in the way, and each has its remedy here.

1. Disjoint supports. At full resolution a classifier separates the two sides nearly perfectly, log p_d / p_g is
   infinite almost everywhere, and all particles of a chain are equally hopeless. So images are seen coarsely
   (`CoarsePixels`) and, while fitting, with Gaussian noise on both sides: then both densities are positive everywhere
   and their ratio is finite (docs/theory.md derives the bound).
2. Over-fitting. A classifier is too sure of the images that it has seen. So several networks are fitted, each without
   one fold of the reals (cross-fitting: Chernozhukov et al. 2018, arXiv 1608.00060), each kept at its best epoch on
   what it has not seen. Their mean logit is the raw score.
3. Scale. Slope and offset of the logit are fitted to the scores of images that were not trained on (Platt 1999; for
   GANs: Turner et al. 2019, "Metropolis-Hastings GANs", arXiv 1811.11357).

`nn.Sequential(CoarsePixels(), fit_log_ratio(...))` maps images [n, 3, H, W] to log ratios [n, 1]: it stands where a
critic stands in `models.gan.isir`, with beta = 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class RatioSettings:
    """How the networks of a `LogRatio` are made and fitted.

    noise: standard deviation of the noise on the features of both sides while fitting. folds: number of networks, at
    least 2. width, hidden_layers, dropout: of each. epochs: passes over the reals; each network is kept at its best.
    learning_rate: AdamW's, falling linearly to a tenth.
    """

    noise: float = 0.3
    folds: int = 5
    width: int = 128
    hidden_layers: int = 2
    dropout: float = 0.2
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("width", 1), ("hidden_layers", 1), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least {least}")
        if not (0 <= self.noise < math.inf and 0 <= self.dropout < 1):
            raise ValueError(f"noise={self.noise} must be at least 0, dropout={self.dropout} from 0 to below 1")


class CoarsePixels(nn.Module):
    """Images [n, C, H, W] -> [n, cells^2], or [n, C cells^2] with `colour`: the means over a grid of cells."""

    def __init__(self, cells: int = 8, colour: bool = False) -> None:
        super().__init__()
        if cells < 1:
            raise ValueError(f"cells={cells}: it must be at least 1")
        self.cells, self.colour = cells, colour

    def forward(self, x: Tensor) -> Tensor:
        """Images [n, C, H, W] of at least `cells` pixels per side -> features [n, d]."""
        if min(x.shape[2:]) < self.cells:
            raise ValueError(f"images of {list(x.shape[2:])} pixels are smaller than {self.cells} x {self.cells} cells")
        return F.adaptive_avg_pool2d(x if self.colour else x.mean(1, keepdim=True), self.cells).flatten(1)


class LogRatio(nn.Module):
    """Features [n, dimensions] -> log p_d / p_g [n, 1]: slope times the mean logit of the networks, plus offset."""

    slope: Tensor
    offset: Tensor

    def __init__(self, dimensions: int, settings: RatioSettings) -> None:
        super().__init__()
        self.networks = nn.ModuleList(_network(dimensions, settings) for _ in range(settings.folds))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, dimensions] -> log ratios [n, 1]."""
        return self.slope * torch.stack([network(x) for network in self.networks]).mean(0) + self.offset


def fit_log_ratio(
    real: Tensor,
    fake: Tensor,
    held_out: Tensor,
    *,
    settings: RatioSettings | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda epochs: None,
) -> LogRatio:
    """The calibrated log ratio of two sets of feature vectors, in eval mode, on the CPU, where it is fitted.

    Args: real: features of the data [n, d]. fake: of the generator's images [m, d], for training; held_out: of others
    [k, d], for choosing epochs and for the scale. The codes that made them must not be measured later. progress: called
    with the number of epochs done since the last call, folds * epochs in all.

    For the scale every real is scored by the one network that has not seen it, every held-out image by the mean of all,
    as it will be used. A slope <= 0 says that the score rates generated images above real ones; it is no weight then.
    Raises ValueError for fewer than two reals in each fold, for features that are not finite, and where all are equal.
    """
    settings = settings or RatioSettings()
    real, fake, held_out = (x.detach().float().cpu() for x in (real, fake, held_out))
    _check_features(real, fake, held_out, settings.folds)
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(len(real), generator=generator) % settings.folds
    real_scores, held_out_scores = torch.zeros(len(real)), torch.zeros(len(held_out))
    # Weights and dropout draw from the global state: forked, and left as it was.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        ratio = LogRatio(real.shape[1], settings)
        for k, network in enumerate(ratio.networks):
            used, apart = (real[fold != k], fake), (real[fold == k], held_out)
            _fit_network(network, used, apart, settings=settings, generator=generator, progress=progress)
            with torch.no_grad():
                real_scores[fold == k] = network(real[fold == k])[:, 0]
                held_out_scores += network(held_out)[:, 0] / settings.folds
    slope, offset = platt_scale(real_scores, held_out_scores)
    ratio.slope.fill_(slope)
    ratio.offset.fill_(offset)
    return ratio.eval().requires_grad_(False)


def platt_scale(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """(slope, offset) of logistic regression of "is real" on scores [n] and [m], both sides weighted alike.

    Platt 1999, "Probabilistic outputs for support vector machines". His targets, (n + 1) / (n + 2) and 1 / (m + 2) in
    place of 1 and 0, keep the slope finite where the scores separate the sides. For any score, a critic's too: slope 1
    and offset 0 say that it is a log ratio already. Raises ValueError for fewer than 2 scores on a side, and for scores
    that are not finite.
    """
    if len(real) < 2 or len(fake) < 2:
        raise ValueError(f"a scale needs at least 2 scores on each side, there are {len(real)} and {len(fake)}")
    scores = torch.cat([real, fake]).detach().double().cpu()
    if not scores.isfinite().all():
        raise ValueError("scores are NaN or infinite; the network that made them is broken")
    n, m = len(real), len(fake)
    target = torch.cat([scores.new_full((n,), (n + 1) / (n + 2)), scores.new_full((m,), 1 / (m + 2))])
    weight = torch.cat([scores.new_full((n,), 0.5 / n), scores.new_full((m,), 0.5 / m)])
    # A critic's scores may be in the hundreds: standardised, whatever their scale.
    centre, spread = scores.mean(), scores.std().clamp_min(1e-12)
    x = (scores - centre) / spread
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(theta[0] * x + theta[1], target, weight, reduction="sum")
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    standard_slope, standard_offset = theta.detach().tolist()
    slope = standard_slope / float(spread)
    return slope, standard_offset - slope * float(centre)


def balanced_log_loss(real: Tensor, fake: Tensor) -> float:
    """The log loss in nats of logits [n] of reals and [m] of generated images, both sides weighted alike.

    log 2 = 0.693: as good as no information.
    """
    return float(0.5 * F.softplus(-real.double()).mean() + 0.5 * F.softplus(fake.double()).mean())


def _network(dimensions: int, settings: RatioSettings) -> nn.Sequential:
    """[n, dimensions] -> logit [n, 1]."""
    layers: list[nn.Module] = []
    for inputs in (dimensions, *[settings.width] * (settings.hidden_layers - 1)):
        layers += [nn.Linear(inputs, settings.width), nn.ReLU(), nn.Dropout(settings.dropout)]
    return nn.Sequential(*layers, nn.Linear(settings.width, 1))


def _fit_network(
    network: nn.Module,
    used: tuple[Tensor, Tensor],
    apart: tuple[Tensor, Tensor],
    *,
    settings: RatioSettings,
    generator: torch.Generator,
    progress: Callable[[int], None],
) -> None:
    """Train on the features `used` ([n, d] of reals, [m, d] of fakes); leave it at the epoch of lowest log loss on
    `apart`, in eval mode.
    """
    real, fake = used
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    best, best_state = math.inf, {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(settings.epochs):
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - 0.9 * epoch / settings.epochs)
        drawn = torch.randint(len(fake), (len(real),), generator=generator)
        for rows in torch.randperm(len(real), generator=generator).split(settings.batch_size):
            # Noise anew in every batch: no image is seen twice.
            x = torch.cat([real[rows], fake[drawn[rows]]])
            x = x + settings.noise * torch.randn(x.shape, generator=generator)
            logit_real, logit_fake = network(x)[:, 0].split(len(rows))
            loss = F.softplus(-logit_real).mean() + F.softplus(logit_fake).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            loss_apart = balanced_log_loss(*(network(x)[:, 0] for x in apart))
        if loss_apart < best:
            best, best_state = loss_apart, {name: value.clone() for name, value in network.state_dict().items()}
        progress(1)
    network.load_state_dict(best_state)


def _check_features(real: Tensor, fake: Tensor, held_out: Tensor, folds: int) -> None:
    if len(real) < 2 * folds:
        raise ValueError(f"{len(real)} real images are too few for {folds} folds: at least {2 * folds} are needed")
    for name, x in (("fake", fake), ("held_out", held_out)):
        if len(x) < 2 or x.shape[1:] != real.shape[1:]:
            raise ValueError(f"{name} {list(x.shape)}: at least 2 rows of {list(real.shape[1:])} features are needed")
    together = torch.cat([real, fake])
    if not (together.isfinite().all() and held_out.isfinite().all()):
        raise ValueError("features are NaN or infinite; the images or the feature network are broken")
    if bool((together == together[0]).all()):
        raise ValueError("all images are equal, real and generated alike: there is no ratio to fit")
