"""The figures of the isir_fid entry point."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from evaluation.figures import plot_lines, plot_step_curves
from trainers.isir_fid.samplers import SamplerResult


def plot_chains(samplers: Mapping[str, SamplerResult], n_iterations: int, title: str) -> Figure:
    """The curves of every sampler's chains against the iteration, a panel each."""
    names = sorted({name for result in samplers.values() for name in result.chains.curves})
    panels = {
        name: {
            sampler: result.chains.curves[name] for sampler, result in samplers.items() if name in result.chains.curves
        }
        for name in names
    }
    return plot_step_curves(list(range(1, n_iterations + 1)), panels, title, "iteration")


def plot_sweeps(sweeps: Mapping[str, Sequence[Mapping[str, float]]], distances: Sequence[str], title: str) -> Figure:
    """A panel for each distance and each parameter that has more than one value."""
    swept = {name: rows for name, rows in sweeps.items() if len(rows) > 1}
    panels = {
        f"{distance} against {name}": (
            name,
            [row[name] for row in rows],
            {distance: [row[distance] for row in rows]},
        )
        for distance in distances
        for name, rows in swept.items()
    }
    return plot_lines(panels, title, columns=len(swept))


def codes_to_show(
    plain: SamplerResult, samplers: Mapping[str, SamplerResult], n: int = 64
) -> dict[str, tuple[Tensor, str]]:
    """{name: (codes [<= n, nz], caption)} of the grids of images.

    Plain sampling, each sampler on the same chains, and the plain samples that the headline's weights rate lowest and
    highest.
    """
    order = plain.chains.value.argsort()
    return {
        "plain": (plain.chains.z[:n], "plain samples"),
        **{name: (result.chains.z[:n], f"the same chains after {name}") for name, result in samplers.items()},
        "rated_lowest": (plain.chains.z[order[:n]], "plain samples rated lowest"),
        "rated_highest": (plain.chains.z[order[-n:].flip(0)], "plain samples rated highest"),
    }
