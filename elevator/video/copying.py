"""Sound, subtitles, chapters and title carried from one file to another, in step with frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Any

from elevator.video.clip import Clip, Track
from elevator.video.stream import StreamClip, opened

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

__all__ = ["Copy"]

_EDITED = {"mp4", "mov"}  # these can say that sound from before the start is not played
_DELAYED = {"opus", "libopus"}  # so can Matroska and WebM, of these
_KINDS = {"audio": "sound", "subtitle": "subtitles"}


class Copy:
    """The tracks of a clip that another file can take, fed to it no further than its frames.

    Tracks stay as they are coded, with what tells which of them is played; title and chapters go
    along.

    Args:
        clip: whose tracks.
        container: where to; its video stream is there already, nothing is written yet.
        form: FFmpeg's name of the container's format.

    Attributes:
        notes: what could not be carried over.
    """

    def __init__(self, clip: Clip, container: OutputContainer, form: str) -> None:
        self.notes: list[str] = []
        self._container, self._offset = container, clip.offset
        self._edited = form in _EDITED
        self._held: Packet[Any] | None = None
        self._stack = ExitStack()
        self._packets: Iterator[Packet[Any]] = iter(())
        self._streams: dict[int, Stream] = {}
        if not isinstance(clip, StreamClip):  # pictures have none of it
            return
        source = self._stack.enter_context(opened(clip.path))
        if "title" in source.metadata:
            container.metadata["title"] = source.metadata["title"]
        container.set_chapters([_moved(one, clip.offset) for one in source.chapters()])
        for track in clip.tracks:
            stream = source.streams[track.stream]
            if _takes(form, stream):
                made: Stream = container.add_stream_from_template(stream)
                for key in ("language", "title"):
                    if key in stream.metadata:
                        made.metadata[key] = stream.metadata[key]
                made.disposition = stream.disposition
                self._streams[track.stream] = made
            else:
                self.notes.append(_refusal(track, form, stream))
        if self._streams:
            self._packets = source.demux([source.streams[index] for index in self._streams])

    def until(self, time: Fraction | None) -> None:
        """Write what starts before a time of the clip, or all that is left for None."""
        import av

        while True:
            try:
                packet = self._held or next(self._packets, None)
            except av.FFmpegError:
                self.notes.append("the sound or the subtitles end early: the clip is truncated")
                self._packets = iter(())
                return
            self._held = packet
            if packet is None:
                return
            starts = packet.pts if packet.pts is not None else packet.dts
            if starts is None or not packet.size:  # the end of a stream
                self._held = None
                continue
            begin = starts * packet.time_base - self._offset
            if time is not None and begin >= time:
                return
            self._held = None
            if begin >= 0 or self._edited or packet.stream.codec_context.name in _DELAYED:
                self._write(packet, starts)
            elif packet.stream.type == "audio":
                note = "left out: sound from before the start, which players skip"
                if note not in self.notes:
                    self.notes.append(note)

    def close(self) -> None:
        self._stack.close()

    def _write(self, packet: Packet[Any], starts: int) -> None:
        shift = round(self._offset / packet.time_base)
        packet.pts = starts - shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = self._streams[packet.stream.index]
        self._container.mux(packet)


def _moved(chapter: Any, offset: Fraction) -> Any:
    """A chapter by a clock that starts with the clip."""
    shift = round(offset / chapter["time_base"])
    start, end = (max(0, chapter[side] - shift) for side in ("start", "end"))
    return {**chapter, "start": start, "end": end}


def _takes(form: str, stream: Stream) -> bool:
    """Whether a file of this kind can hold a stream: tried in memory, which asks the muxer."""
    import av

    if stream.codec_context is None:
        return False
    try:
        with av.open(BytesIO(), "w", format=form) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _refusal(track: Track, form: str, stream: Stream) -> str:
    better = next((name for name in ("matroska", "mp4") if _takes(name, stream)), None)
    ending = {"matroska": ".mkv", "mp4": ".mp4"}.get(better or "")
    advice = f"; write {ending} to keep it" if ending else ""
    return (
        f"left out: the {_KINDS[track.kind]} of stream {track.stream} ({track.codec}), "
        f"which a file of the kind {form} cannot hold{advice}"
    )
