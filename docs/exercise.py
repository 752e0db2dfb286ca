# %% [markdown]
# # The exercise, cell by cell
#
# Every cell that says *your code here* in the exercise, with this project's functions in its place. All runs in a few
# minutes
# on a CPU, without network, on embedded or simulated data: numbers here show that the parts work, not how good they can
# be. For that, see the entry points and the pages in `docs/`.  This notebook is made by `python -m docs.make_notebook`
# from `docs/exercise.py`.

# %%
import inspect
import io
import math
import sys
import tempfile
from pathlib import Path

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "MLproject").is_file())
sys.path.insert(0, str(root))  # the project is not installed; its folders are imported from its root

import numpy as np
import torch
from IPython.display import Image, Markdown, display

torch.manual_seed(0)
cache = Path(tempfile.mkdtemp())  # decoded images and EEG trials


def show(figure, dpi=64):
    """Display a matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    display(Image(buffer.getvalue()))


def source(*functions):
    """Display the code of functions and classes."""
    for function in functions:
        display(Markdown(f"```python\n{inspect.getsource(function)}```"))


def table(header, rows):
    """Display a table."""
    lines = [header, ["---"] * len(header), *rows]
    display(Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)))


# %% [markdown]
# # Problem 1. Making GANs great
# ## Theoretical part
#
# `docs/theory.md` derives the three distances of two parallel segments and why Wasserstein is the one to optimise;
# `mlflow run . -e theory` checks all of it. In short, with $\delta = \theta - \theta_\ast$:

# %%
from evaluation import distances

table(
    ["$\\delta$", "KL", "JS", "Wasserstein", "KL, smoothed by 0.1", "JS, smoothed by 0.1"],
    [
        [
            delta,
            distances.segments_kl(delta),
            f"{distances.segments_js(delta):.4f}",
            distances.segments_wasserstein(delta),
            f"{distances.smoothed_kl(delta, 0.1):.2f}",
            f"{distances.smoothed_js(delta, 0.1):.4f}",
        ]
        for delta in (0.0, 0.1, 0.5, -1.0)
    ],
)

rng = np.random.default_rng(0)
segments = [np.column_stack([rng.random(400), np.full(400, y)]) for y in (0.5, 0.0)]
print(
    f"optimal transport between 400 points of each segment at 0.5: {distances.wasserstein_of_samples(*segments)[0]:.4f}"
)

# %% [markdown]
# ## Networks
#
# `G = tmim.nets.wgan_gp.wgan_gp_64.WGANGPGenerator64()`: torch-mimicry's modules, loaded without TensorFlow, and this
# project's own, which compute the same with fewer operations. On the same weights:

# %%
from models.gan import mimicry
from models.gan.networks import Critic, Generator

theirs_G, theirs_D = mimicry.build_networks(32, nz=64, ngf=32, ndf=32)
G, D = Generator(32, nz=64, ngf=32), Critic(32, ndf=32)
G.load_state_dict(theirs_G.state_dict())
D.load_state_dict(theirs_D.state_dict())
z = torch.randn(8, 64)
with torch.no_grad():
    print(f"largest difference of G(z): {(G(z) - theirs_G(z)).abs().max():.1e}")
    print(f"largest difference of D(G(z)): {(D(G(z)) - theirs_D(theirs_G(z))).abs().max():.1e}")

# %% [markdown]
# ## The losses of WGAN-GP

# %%
from models.gan.losses import loss_D, loss_G, loss_GP

source(loss_D, loss_G, loss_GP)

# %% [markdown]
# ## Data and optimisers
#
# With CelebA it is `load_images("celeba", 64, "train", data_dir)`: centre crop, antialiased resize, decoded once. Here
# the digits of scikit-learn, enlarged to 32 pixels. Adam with the exercise's settings but for the learning rates, which
# suit so short a training.

# %%
from data.images.load import ImageBatches, load_images
from evaluation.figures import image_grid, plot_image, plot_step_curves
from trainers.wgan.loop import METRICS, Training, sample_images, train, training_steps

images = load_images("digits", 32, "train", cache_dir=cache, progress=False)
dataloader = ImageBatches(images, batch_size=32, seed=0, device="cpu", flip=False)
training = Training(G, D, nz=64, lr_generator=5e-4, lr_critic=8e-4, ema_decay=0.98)
print(f"{len(images):,} images, batches {list(next(dataloader).shape)} in [-1, 1]")

# %% [markdown]
# ## Training: `train(G, D, dataloader, n_dis, gp_scale)`

# %%
source(training_steps)
source(train)

# %%
# What `train` does, step by step, with the metrics of each step kept
history = [metrics.tolist() for metrics in training_steps(training, dataloader, n_dis=2, gp_scale=10.0, steps=120)]
curves = dict(zip(METRICS, np.array(history).T.tolist(), strict=True))
panels = {
    "losses": {"critic": curves["critic_loss"], "generator": curves["generator_loss"]},
    "Wasserstein estimate": {"E D(real) - E D(fake)": curves["wasserstein_estimate"]},
}
show(plot_step_curves(range(1, 121), panels, "WGAN-GP on digits, 120 steps"))

# %%
G_average = training.ema.model.eval()
D.eval()
codes = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
show(plot_image(image_grid(sample_images(G_average, codes)), "after 120 steps; `mlflow run . -e wgan` makes 800"))

# %% [markdown]
# ## Model performance: the Fréchet distance
#
# FID is this distance in the features of the 2015 Inception, whose weights need a download (`mlflow run . -e fid -P
# features=inception`). In the features of a small classifier of digits it is called `fd_digits`, and compares only with
# itself.

# %%
from evaluation.features import extract, network_extractor
from evaluation.frechet import Gaussian, frechet_of
from models.gan.digit_classifier import DigitFeatures
from training.generators.digit_features import train_classifier

classifier, accuracy = train_classifier(cache)
extractor = network_extractor("digits", DigitFeatures(classifier), "notebook", "digits", torch.device("cpu"))
reference = Gaussian.of(extract(extractor, torch.from_numpy(images.pixels.copy()).split(256)).moments)


def fd_digits(z):
    """The Fréchet distance of G(z) to the training digits."""
    return frechet_of(extract(extractor, torch.from_numpy(sample_images(G_average, z)).split(256)).x, reference)


plain = torch.randn(400, 64, generator=torch.Generator().manual_seed(2))
print(f"classifier: accuracy {accuracy:.3f} on held-out digits; fd_digits of plain samples: {fd_digits(plain):.2f}")

# %% [markdown]
# ## I-SIR: `I_SIR(N_i, N_s, N_p, n_z, D, G)`
#
# The exercise's weights, $\log \rho(z) = - \Vert z \Vert^2 / 2 + D(G(z))$, count the prior twice;
# `weights="importance"` (the default) is what samples $p^\ast(z) = p_z(z) e^{D(G(z))}$. `docs/isir_fid.md` proves it.
# Both:

# %%
from models.gan.isir import I_SIR

rows = [["plain", f"{fd_digits(plain):.2f}", f"{plain.square().sum(1).mean():.1f}"]]
for weights in ("importance", "density"):
    chosen = I_SIR(5, 400, 10, 64, D, G_average, weights=weights, generator=torch.Generator().manual_seed(2))
    rows.append([weights, f"{fd_digits(chosen):.2f}", f"{chosen.square().sum(1).mean():.1f}"])
table(["codes", "fd_digits", "mean of $\\Vert z \\Vert^2$"], rows)

# %% [markdown]
# A critic of 120 steps and 400 images tell little: the distance may fall or rise. `mlflow run . -e isir_fid` measures
# it with intervals, and `docs/isir_fid.md` has what came out after 800 steps.

# %% [markdown]
# # Problem 2. Signal processing
# ## Dataset
#
# `load_eeg("physionet", cache, subjects="1-99")` downloads and reads what the exercise loads by hand: runs 4, 8, 12, 7
# to 30 Hz, -1 to 4 s around the cue. Here six **simulated** people, written as EDF files and read by the same code.

# %%
from data.eeg.figures import recording_figures
from data.eeg.load import load_eeg

data = load_eeg("simulated", cache, subjects="1-6", n_workers=1, quiet=True)
print(data.table())
left, right = sum(data.label == 0), sum(data.label == 1)
print(f"\ntrials [n, channels, samples]: {list(data.trials.shape)} in volts; left {left}, right {right}")

# %%
figures = recording_figures(data)
for name in ("raw_traces", "spectrum", "spectrum_topomaps"):
    show(figures[name], dpi=48)

# %% [markdown]
# ## Windows: the exercise's `MNEDataset`, and the same as views
#
# torcheeg's `MNEDataset` writes every window into a database. Views of one array are the same windows, value for value:

# %%
one = load_eeg("simulated", cache, subjects="1", runs="4", n_workers=1, quiet=True)
by_torcheeg, by_views = one.torcheeg_windows(160, 80), one.windows(160, 80)
every = np.arange(len(by_views))
difference = (by_torcheeg.gather(every) - by_views.gather(every)).abs().max()
print(f"{len(by_views)} windows of {list(by_views.gather(every[:1]).shape[1:])}; largest difference {difference:.1e}")

# %% [markdown]
# Windows of one trial overlap, so a random split of windows would leak. Folds hold out people:

# %%
from data.eeg.splits import make_folds

windows = data.windows(160, 80)
fold = make_folds(windows, "cross_subject", n_folds=6, validation_share=0.2, seed=0)[0]
for name in ("train", "validation", "test"):
    part = getattr(fold, name)
    print(f"{name}: {len(part)} windows of subjects {sorted(set(windows.subject[part].tolist()))}")

# %% [markdown]
# ## Contrastive learning
# ### Channel recombination and augmentations

# %%
from models.eeg.augment import NAMES, AugmentRanges, augment, recombine

generator = torch.Generator().manual_seed(0)


def stretches(n, margin=40, length=160):
    """Random stretches of training trials with a margin on both sides: [n, 64, length + 2 margin], standard deviation
    1.
    """
    trials = np.unique(windows.trial[fold.train])
    chosen = torch.randint(len(trials), (n,), generator=generator).numpy()
    start = torch.randint(data.trials.shape[2] - length - 2 * margin, (n,), generator=generator).tolist()
    cut = [data.trials[trials[i], :, s : s + length + 2 * margin] for i, s in zip(chosen, start, strict=True)]
    x = torch.from_numpy(np.stack(cut))
    return (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True)


channels = recombine(stretches(4), n=6, generator=generator)
print(
    f"64 channels and their {64 * 63 // 2:,} differences; six drawn for each of four stretches: {list(channels.shape)}"
)

from matplotlib.figure import Figure

figure = Figure(figsize=(11, 3.6), layout="constrained")
one_channel = channels[0, :1]
for axis in figure.subplots(2, 3).flat:
    axis.plot(one_channel[0, 40:200], color="grey", linewidth=0.8, label="as it is")
    axis.plot(augment(one_channel, 160, AugmentRanges(), generator)[0], linewidth=1, label="a view")
figure.axes[0].legend(frameon=False, fontsize=8)
figure.suptitle(f"Views of one channel, two augmentations each of: {', '.join(NAMES)}", fontsize=10)
show(figure)

# %% [markdown]
# ### Encoder, projector, NT-Xent

# %%
from models.eeg.nt_xent import nt_xent
from models.eeg.simclr import ChannelClassifier, ConvolutionalEncoder, Projector, RecurrentEncoder

source(nt_xent)
drawn = {
    "recurrent encoder": RecurrentEncoder(),
    "convolutional encoder": ConvolutionalEncoder(),
    "projector": Projector(),
}
for name, network in drawn.items():
    print(f"{name}: {sum(p.numel() for p in network.parameters()):,} parameters as drawn in the paper")

# %% [markdown]
# Pre-training without labels, with narrow networks and few steps. `mlflow run . -e eeg_simclr` is the real thing.

# %%
from models.eeg.augment import views

encoder, projector = ConvolutionalEncoder(width=0.06, kernels=(33, 17, 9, 17)), Projector(widths=(32, 16, 8))
optimizer = torch.optim.Adam([*encoder.parameters(), *projector.parameters()], lr=2e-3)
contrastive = []
for _ in range(60):
    a, b = views(recombine(stretches(16), 8, generator).flatten(0, 1), 160, AugmentRanges(), generator)
    loss = nt_xent(projector(encoder(a)), projector(encoder(b)), tau=0.2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    contrastive.append(loss.item())
alike = math.log(255)
print(f"NT-Xent of 128 channels: {contrastive[0]:.2f} -> {np.mean(contrastive[-5:]):.2f}; were all alike: {alike:.2f}")

# %% [markdown]
# ### Classifier, training loop, evaluation

# %%
from evaluation.classification import (
    classification_scores,
    confusion,
    plot_confusion,
    probability_of_right,
    trial_means,
)


def fit(network, epochs, lr, batch_size=32, windows_per_epoch=800):
    """Train a classifier of windows that gives log-probabilities; the loss of every step."""
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=lr), []
    network.train()
    for _ in range(epochs):
        order = fold.train[torch.randperm(len(fold.train), generator=generator)[:windows_per_epoch].numpy()]
        for chosen in np.array_split(order, len(order) // batch_size):
            log_p = network(windows.gather(chosen)).log_softmax(-1)
            loss = torch.nn.functional.nll_loss(log_p, torch.from_numpy(windows.label[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def evaluate(network, losses, title):
    """Scores per trial on the held-out subject, the confusion matrix and the loss curve."""
    network.eval()
    log_p = torch.cat([network(windows.gather(part)).log_softmax(-1) for part in np.array_split(fold.test, 8)])
    trials, means = trial_means(log_p.double().numpy(), windows.trial[fold.test])
    p_right = probability_of_right(means)
    scores = classification_scores(data.label[trials], p_right)
    print(", ".join(f"{name} {scores[name]:.3f}" for name in ("accuracy", "f1", "roc_auc")), f"on {len(trials)} trials")
    show(plot_confusion(confusion(data.label[trials], p_right), title))
    show(plot_step_curves(range(len(losses)), {"training loss": {"cross-entropy": losses}}, title), dpi=48)


network = ChannelClassifier(encoder, n_chans=64, head_width=0.12)
evaluate(network, fit(network, epochs=2, lr=1e-3), "simulated: pre-trained encoder with classifier")

# %% [markdown]
# With so few steps the result is a coin's (45 trials: 0.36 to 0.64 is chance).

# %% [markdown]
# ## Transformer from scratch

# %%
from models.transformer import (
    AttentionBlock,
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttentionBlock,
    PositionalEncoding,
    Transformer,
)

source(EncoderLayer.forward, PositionalEncoding.forward)
for block in (AttentionBlock, MultiHeadAttentionBlock, PositionalEncoding, EncoderLayer, DecoderLayer, Transformer):
    print(f"{block.__name__}: {inspect.getdoc(block).splitlines()[0]}")

# %% [markdown]
# With the same weights it computes what `torch.nn.Transformer` computes:

# %%
sizes = {"d_ff": 64, "dropout": 0.0}
ours = Transformer(32, 4, 2, 2, **sizes).eval()
theirs = torch.nn.Transformer(32, 4, 2, 2, dim_feedforward=64, dropout=0.0, batch_first=True).eval()
theirs.load_state_dict(ours.state_dict())
src, tgt = torch.randn(2, 10, 32), torch.randn(2, 7, 32)
print(f"largest difference: {(ours(src, tgt) - theirs(src, tgt)).abs().max():.1e}")

# %% [markdown]
# For EEG a token is a slice of time over all channels; an encoder, and a decoder with one learned query a class:

# %%
from models.eeg.transformer import EegTransformer

network = EegTransformer(d_model=64, n_heads=4, n_layers=2, patch_len=16, patch_stride=8)
evaluate(network, fit(network, epochs=8, lr=1e-3), "simulated: EEG Transformer")

# %% [markdown]
# ## Efficient transformers
#
# Two of the six in `models/attention/spec.py`; `docs/efficient_attention.md` has references, main ideas and
# measurements of all.
# - **Linear attention** (Katharopoulos et al. 2020, arXiv 2006.16236): $\mathrm{softmax}(q k^T) v$ becomes $\phi(q)
# (\phi(k)^T v)$ with a positive feature map $\phi$; keys and values are summed once, so time is $O(N)$.
# - **Linformer** (Wang et al. 2020, arXiv 2006.04768): learned maps shorten keys and values along time to $k$ rows, so
# the matrix of attention has $N \times k$ entries; $O(N)$ for a fixed $k$, and a longest sequence that is known
# beforehand.  One encoder layer, inference, CPU time of one thread against exact attention on
# `scaled_dot_product_attention`:

# %%
from trainers.efficient_attention.scaling import measure_times

seconds = measure_times(("sdpa", "linear", "linformer"), (64, 512, 4096), 2, torch.device("cpu"), lambda note: None)
table(
    ["tokens", "exact, ms", "linear: speed-up", "Linformer: speed-up"],
    [
        [n, f"{1000 * exact:.1f}", *(f"{exact / seconds[name][n]:.2f}" for name in ("linear", "linformer"))]
        for n, exact in seconds["sdpa"].items()
    ],
)

# %% [markdown]
# Trained in place of exact attention, on the same windows:

# %%
network = EegTransformer(d_model=64, n_heads=4, n_layers=2, patch_len=16, patch_stride=8, attention="linear")
evaluate(network, fit(network, epochs=8, lr=1e-3), "simulated: EEG Transformer with linear attention")

# %% [markdown]
# A window of EEG has 19 tokens here: nothing to gain. The cheaper mechanisms pay on long sequences, as the table above
# shows; from which length on, `mlflow run . -e efficient_attention` measures.
