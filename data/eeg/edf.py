"""Checks the bytes of an EDF+ file before MNE reads it: size, line feeds, time stamps, the limits of its channels; of a
BDF+ file (EDF+ with 24 bits a sample) size and time stamps.

The format: Kemp et al. 1992 (doi:10.1016/0013-4694(92)90009-7), EDF+: Kemp and Olivan 2003
(doi:10.1016/S1388-2457(03)00123-8).
"""

import math
import re
from dataclasses import dataclass

STAMP = re.compile(rb"([+-]\d{1,12}(?:\.\d{0,12})?)(?:\x15[\d.]*)?\x14")
"""The start of a data record's first annotation: "+seconds", behind it perhaps a duration."""
ANNOTATIONS, BDF_ANNOTATIONS = b"EDF Annotations", b"BDF Annotations"
EDF_VERSION, BDF_VERSION = b"0", b"\xffBIOSEMI"
NEIGHBOURS = (9, 11, 12, 14)  # bytes as frequent in a signal as line feeds (10) and carriage returns (13)


class BadRecording(Exception):
    """A recording that must not be used as it is; the message says why, without the file's name."""


@dataclass(frozen=True)
class EdfHeader:
    """Of an EDF or BDF file: sizes in bytes, the length of a data record in seconds, and every signal's fields.

    sample_bytes: of one number, 2 or, in BDF, 3. n_samples: of each signal in a data record. stamp_offset: where a data
    record's time stamp stands in it, None where the file has none.
    """

    sample_bytes: int
    n_header_bytes: int
    n_records: int
    record_seconds: float
    is_discontinuous: bool
    labels: tuple[bytes, ...]
    n_samples: tuple[int, ...]
    limits: tuple[tuple[bytes, bytes, bytes, bytes], ...]

    @property
    def record_bytes(self) -> int:
        return self.sample_bytes * sum(self.n_samples)

    @property
    def stamp_offset(self) -> int | None:
        for label in (ANNOTATIONS, BDF_ANNOTATIONS):
            if label in self.labels:
                return self.sample_bytes * sum(self.n_samples[: self.labels.index(label)])
        return None


def check_edf_bytes(payload: bytes) -> None:
    """BadRecording if an EDF+ file was cut short, rewritten by a transfer in text mode, has gaps, or senseless limits.

    The header promises the size (Kemp et al. 1992), and every data record holds a time stamp "+seconds" at a
    known place (Kemp and Olivan 2003), so bytes that were added or removed on the way show, and so does time that was
    left out. MNE would read past all of these, at most with a warning.
    """
    header = edf_header(payload)
    expected = header.n_header_bytes + header.n_records * header.record_bytes
    body = payload[header.n_header_bytes :]
    if _line_feeds_rewritten(header, body, len(payload) - expected):
        raise BadRecording(
            "its line feeds were rewritten, as a transfer in text mode does (FTP's ascii mode, git's autocrlf): "
            f"{len(payload)} bytes where {expected} are right; copy it again in binary mode"
        )
    if len(payload) < expected:
        whole = len(body) // header.record_bytes
        raise BadRecording(f"cut short: the header promises {header.n_records} data records, the file holds {whole}")
    if len(payload) > expected:
        raise BadRecording(f"{len(payload) - expected} bytes follow the last data record")
    _check_time_stamps(header, body)
    _check_limits(header)


def check_bdf_bytes(payload: bytes) -> None:
    """BadRecording if a BDF file (EDF with 24 bits a sample) has another size than its header promises, or gaps."""
    header = edf_header(payload, BDF_VERSION)
    expected = header.n_header_bytes + header.n_records * header.record_bytes
    if len(payload) != expected:
        whole = (len(payload) - header.n_header_bytes) // header.record_bytes
        raise BadRecording(
            f"the header promises {header.n_records} data records, {expected} bytes; the file holds {whole}, "
            f"{len(payload)} bytes: copy it again"
        )
    _check_time_stamps(header, payload[header.n_header_bytes :])


def edf_header(payload: bytes, version: bytes = EDF_VERSION) -> EdfHeader:
    """The header of an EDF or BDF file: 256 bytes, then 256 bytes a signal, by field. BadRecording if it is none."""
    try:
        n_signals = int(payload[252:256])
        if payload[:8].strip() != version or n_signals < 1 or len(payload) < 256 * (n_signals + 1):
            raise ValueError

        def column(at: int, width: int) -> list[bytes]:
            first = 256 + n_signals * at
            return [payload[first + width * i : first + width * (i + 1)].strip() for i in range(n_signals)]

        header = EdfHeader(
            sample_bytes=3 if version == BDF_VERSION else 2,
            n_header_bytes=int(payload[184:192]),
            n_records=int(payload[236:244]),
            record_seconds=float(payload[244:252]),
            is_discontinuous=payload[192:197] in (b"EDF+D", b"BDF+D"),
            labels=tuple(column(0, 16)),
            n_samples=tuple(int(size) for size in column(216, 8)),
            limits=tuple(zip(column(104, 8), column(112, 8), column(120, 8), column(128, 8), strict=True)),
        )
        if header.n_header_bytes != 256 * (n_signals + 1) or min(header.n_samples) < 1:
            raise ValueError
    except ValueError:
        kind = "a BDF" if version == BDF_VERSION else "an EDF"
        raise BadRecording(f"not {kind} file: its header cannot be read") from None
    if header.n_records < 1:
        raise BadRecording(f"its header promises {header.n_records} data records: the recording was never closed")
    if not 0 < header.record_seconds < math.inf:
        raise BadRecording(f"its header says that a data record lasts {header.record_seconds:g} s")
    return header


def _check_time_stamps(header: EdfHeader, body: bytes) -> None:
    """BadRecording unless each data record starts where the one before it ends, to half a sample."""
    if header.stamp_offset is None:
        if header.is_discontinuous:
            raise BadRecording(
                "it has gaps (its header says so) and no time stamps that say where; record it again without"
            )
        return
    slack = header.record_seconds / max(header.n_samples) / 2
    first = previous = 0.0
    for number in range(header.n_records):
        match = STAMP.match(body, number * header.record_bytes + header.stamp_offset)
        if match is None:
            raise BadRecording(f"data record {number + 1} of {header.n_records} has no time stamp")
        stamp = float(match[1])
        if number == 0:
            first = stamp
        # The second comparison finds what grows by less than half a sample a record.
        elif (
            abs(stamp - previous - header.record_seconds) > slack
            or abs(stamp - first - number * header.record_seconds) > slack
        ):
            raise BadRecording(
                f"it has a gap: data record {number + 1} starts at {stamp:g} s where the one before it ends at "
                f"{previous + header.record_seconds:g} s, so labels behind it would lie on the wrong signal; split the "
                "recording there into files of their own"
            )
        previous = stamp


def _check_limits(header: EdfHeader) -> None:
    """BadRecording unless every signal's physical and digital limits are finite numbers that differ."""
    for label, limits in zip(header.labels, header.limits, strict=True):
        if label == ANNOTATIONS:
            continue
        name = label.decode("ascii", "replace").strip(".")
        low, high, digital_low, digital_high = (_number(text) for text in limits)
        if not all(map(math.isfinite, (low, high, digital_low, digital_high))):
            shown = " ".join(text.decode("ascii", "replace") for text in limits)
            raise BadRecording(f"the limits of channel {name} in its header are not numbers ({shown})")
        if low == high or digital_low >= digital_high:
            shown = f"{low:g} to {high:g}, digital {digital_low:g} to {digital_high:g}"
            raise BadRecording(f"the limits of channel {name} in its header leave no range ({shown})")


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _line_feeds_rewritten(header: EdfHeader, body: bytes, n_extra: int) -> bool:
    """Whether the data records show the traces of rewritten line feeds (bytes 10) or carriage returns (bytes
    13).
    """
    # CR and LF are as frequent as their neighbours: about 10,000 of each in a recording of 2.6 MB. None at all, where
    # all neighbours occur, is no accident.
    if not (b"\n" in body and b"\r" in body) and all(body.count(byte) > 100 for byte in NEIGHBOURS):
        return True
    if header.stamp_offset is None:
        return False
    stamps = range(header.stamp_offset, len(body), header.record_bytes)
    # Bytes added or removed shift all that follows; a single damaged stamp is another fault.
    lost = [body[at : at + 1] not in (b"+", b"-") for at in stamps]
    return any(lost) if n_extra else sum(lost) > max(1, len(lost) // 10)
