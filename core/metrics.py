"""What `/metrics` counts. Labels never carry session ids or text."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SESSIONS = Gauge("vivace_sessions", "Live sessions")
SESSIONS_CLOSED = Counter("vivace_sessions_closed_total", "Sessions ended, by reason", ["reason"])
TICKS = Counter("vivace_ticks_total", "Ticks shown")
TICKS_LATE = Counter("vivace_ticks_late_total", "Ticks shown more than one tick after they were due")
PICTURES_HELD = Counter("vivace_pictures_held_total", "Ticks whose face came too late, so that the picture was held")
PICTURES_SKIPPED = Counter("vivace_pictures_skipped_total", "Pictures not encoded because the encoder was busy")
FACES_DROPPED = Counter("vivace_faces_dropped_total", "Face jobs dropped as stale or late")
BATCH_SIZE = Histogram("vivace_batch_size", "Faces in a batch", buckets=(1, 2, 4, 8, 16, 32, 64))
INFER_SECONDS = Histogram(
    "vivace_infer_seconds", "Seconds a batch took", buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
)
WORKER_FAILURES = Counter("vivace_worker_failures_total", "Batches that failed")
FIRST_SOUND_SECONDS = Histogram(
    "vivace_first_sound_seconds",
    "Seconds from an utterance's acceptance to its first sound",
    buckets=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
)
SPEECH_ERRORS = Counter("vivace_speech_errors_total", "Sentences or answers that failed")
INTERRUPTIONS = Counter("vivace_interruptions_total", "Interruptions that cut speech")
REQUESTS = Counter("vivace_requests_total", "HTTP requests, by route and outcome", ["route", "outcome"])
