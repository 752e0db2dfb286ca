"""Which image files are read: by their ending, and by the reader of Pillow that opens them."""

from collections import Counter

from PIL import features

# Pillow tries the readers of FORMATS and no other: some of its readers start programs (EPS) or read files that are no
# images.
_ALWAYS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_AVIF = (".avif",)
_HEIF = (".heic", ".heif")


def _register_heif() -> bool:
    """Whether HEIC is read; its reader is a package of its own, since it brings libheif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def readers(avif: bool, heif: bool) -> dict[str, tuple[str, ...]]:
    """{reader of Pillow: endings of its files}, where Pillow has the readers of AVIF and HEIC, or not."""
    return {**_ALWAYS, **({"AVIF": _AVIF} if avif else {}), **({"HEIF": _HEIF} if heif else {})}


_READERS = readers(avif=bool(features.check("avif")), heif=_register_heif())
FORMATS = tuple(_READERS)
EXTENSIONS = tuple(extension for extensions in _READERS.values() for extension in extensions)


def describe_left_out(left_out: Counter[str], extensions: tuple[str, ...] = EXTENSIONS) -> str:
    """One line that says how many files of which endings are not read, images first; empty where there are none.

    left_out: {ending, lower case: number of files}, all above 0. extensions: those that are read.
    """
    heif = sum(left_out[ending] for ending in _HEIF if ending not in extensions)
    avif = sum(left_out[ending] for ending in _AVIF if ending not in extensions)
    sayings = []
    if heif:
        sayings.append(f"{heif:,} .heic file{'s are' if heif > 1 else ' is'} not read: install pillow-heif")
    if avif:
        sayings.append(f"{avif:,} .avif file{'s are' if avif > 1 else ' is'} not read: install a newer Pillow")
    others = sorted((-count, not kind, kind) for kind, count in left_out.items() if kind not in (*_HEIF, *_AVIF))
    if others:
        kinds = [f"{-count:,} {kind or 'without an ending'}" for count, _, kind in others[:6]]
        rest = -sum(count for count, _, _ in others[6:])
        kinds += [f"{rest:,} of other kinds"] if rest else []
        sayings.append(f"left out as no images: {', '.join(kinds)}")
    return "; ".join(sayings)
