"""Certified radii: how far each image can move."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np

from robustra_tf import counting
from robustra_tf.attacks import Attack
from robustra_tf.bounds.balls import NORMS, Box
from robustra_tf.certificates.arguments import check_bound, check_sound, default_inner
from robustra_tf.certificates.brackets import Search
from robustra_tf.certificates.certificate import Certificate
from robustra_tf.certificates.certify import certify
from robustra_tf.certificates.radii import Radii
from robustra_tf.certificates.searches import Done, Images
from robustra_tf.cli.progress import RATE, Bar
from robustra_tf.exact.verifier import NORMS as DECIDED
from robustra_tf.exact.verifier import Verifier
from robustra_tf.graph.graph import Graph
from robustra_tf.intake import checks
from robustra_tf.intake.agreement import Agreement
from robustra_tf.intake.examples import arrays
from robustra_tf.intake.precision import full_precision
from robustra_tf.intake.subject import Subject, take
from robustra_tf.vocabulary import largest_radius

#: Without a box: how many times its start a search goes up to.
_GROWTH = 2.0**20


@full_precision()
def certified_radius(  # noqa: PLR0913, the door to all radii
    model: keras.Model | Graph,
    x: np.ndarray,
    y: np.ndarray | None = None,
    *,
    norm: str = "linf",
    box: Box | None = (0.0, 1.0),
    method: str = "dual",
    tolerance: float = 1e-3,
    radii: Sequence[float] = (),
    attack_steps: int = 20,
    complete: bool = False,
    time_limit: float = 120.0,
    batch_size: int = 20,
    dtype: str | None = None,
    inner: str | None = None,
    sound: bool = False,
    progress: bool = False,
) -> Radii:
    """Find how far each image can move: `r` with a certificate, and `r'` with an attack.

    For every image the largest `r` that `certify` proves (all `f_y - f_t` above 0 over the ball of
    radius `r`), up to `tolerance`, and the smallest `r'` at which projected gradient descent finds
    a point that is classified wrongly. What is certified was computed at that very radius, and what
    is attacked is a point that was run through the model again. The bracket of every image is
    narrowed by itself, in batches of equal size: one compiled function serves all radii.

    No radius looked at is above the diameter of the box. Without a box there is no largest one: the
    search goes on from the diameter of [0, 1], or the largest of `radii`, by at most doubling, and
    ends at 2**20 times that. An image certified there may be at larger radii too.

    Args:
      model, x, y, norm, box, method, batch_size, dtype, inner, sound: as `certify` takes them.
      tolerance: in pixels, above 0: how near the certified radius is to one where the certificate
        fails, and the attacked one to one where the attack does.
      radii: in pixels: no image's bracket keeps one of these within it, so that the curve of
        certified accuracy is there what `certify` finds, of bounds that never get tighter with the
        radius: `dual` and `interval`.
      attack_steps: of every attack; 0 leaves attacks out.
      complete: go on between the two radii by complete verification, image by image, until they are
        within `tolerance`: the minimal distortion. For the norms linf and l1.
      time_limit: seconds for one image at one radius, where `complete`; the image's bracket stays
        as it is then.
      progress: shows a bar on the error stream, for long work.

    Returns:
      `Radii`. Both are 0 for images that are misclassified as they are; an attacked radius is
      infinite where no attack succeeded up to the end of the search.

    Raises:
      ValueError: an argument out of its range, by name, or arguments that do not go together; a
        model that computes something else than its layers' weights and settings say.

    Example:
      >>> print(rt.certified_radius(model, x, y, tolerance=0.01).summary())
      1 images, linf balls in pixels cut to [0, 1], dual bound, float32, to 0.01
        1 of 1 correct (100.00%)
        certified radii: median 0.3, the middle half from 0.3 to 0.3
        attacked radii: median 0.3003, the middle half from 0.3003 to 0.3003
    """
    checks.plain("certified_radius", x, y)
    network = take(model, door="certified_radius")
    inner = default_inner(method) if inner is None else inner
    dtype = checks.dtype(("float64" if sound else "float32") if dtype is None else dtype)
    check_bound(method, inner=inner)
    checks.member("norm", norm, NORMS)
    box, size = checks.box(box), checks.whole("batch_size", batch_size)
    steps = checks.whole("attack_steps", attack_steps, 0)
    unit = largest_radius(norm, network.structure.input_shape)
    search = _search(tolerance, radii, unit, box, dtype)
    if sound:
        check_sound(network.model, network.graph, method, dtype, inner)
    if complete:
        _check_complete(norm, sound)
    images = Images(*_examples(network, x, y, box, dtype), norm, box, search)
    start = _Start.of(network.compare(images.x, network.allowed), images.y)
    # The graph was compared with the model on these images just now.
    bound = functools.partial(
        certify,
        network.graph,
        norm=norm,
        box=box,
        method=method,
        batch_size=size,
        dtype=dtype,
        inner=inner,
        sound=sound,
    )
    low = start.certified(images, bound, size, progress)
    subject = network.graph if network.model is None else network.model
    high = start.high
    if steps:
        high = start.attacked(images, subject, low, steps, progress)
    if complete:
        verifier = Verifier(subject, 0.0, norm, box, time_limit)
        with _bar("complete", len(images.x), progress) as done:
            low, high = images.decided(verifier, low, high, done)
    # A point within a certified ball takes the certificate back: rounding has made it.
    low = np.where(low < high, low, 0.0)
    name, mode = ("complete" if complete else method), ("sound" if sound else dtype)
    return Radii(low, high, images.y, start.predicted, norm, box, name, mode, search.tolerance)


class _Start(NamedTuple):
    """What is known of n images before any ball about them."""

    predicted: np.ndarray
    clean: np.ndarray  # the least margin of each image itself
    comparable: np.ndarray  # where the graph gives the model's logits
    high: np.ndarray  # 0 where an image is misclassified, else infinite

    @classmethod
    def of(cls, found: Agreement, y: np.ndarray) -> _Start:
        """From the logits at the images, and their labels."""
        with np.errstate(invalid="ignore"):  # logits that are no finite numbers
            margins = np.take_along_axis(found.logits, y[:, None].astype(int), 1) - found.logits
        predicted = counting.predicted(found.logits)
        clean = counting.least_margin(margins, y)
        return cls(predicted, clean, found.comparable, np.where(predicted == y, np.inf, 0.0))

    def certified(
        self, images: Images, bound: Callable[..., Certificate], size: int, progress: bool
    ) -> np.ndarray:
        """The certified radii [n], `size` images at a time."""
        proven = np.where(self.comparable, self.clean, -np.inf)
        with _bar("certify", len(images.x), progress) as done:
            return images.certified(lambda *ball: bound(*ball).worst_margin, proven, size, done)

    def attacked(
        self,
        images: Images,
        subject: keras.Model | Graph,
        low: np.ndarray,
        steps: int,
        progress: bool,
    ) -> np.ndarray:
        """The attacked radii [n], by attacks of so many steps above the certified ones."""
        attack = Attack(subject, norm=images.norm, box=images.box, steps=steps, restarts=1)
        with _bar("attack", len(images.x), progress) as done:
            return images.attacked(attack, subject, low, self.clean, self.high, done)


def _examples(
    network: Subject, x: np.ndarray, y: np.ndarray | None, box: Box | None, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays; refuses (`ValueError`) what the network or the box has not."""
    structure = network.structure
    x, y = arrays(x, y, structure.input_shape)
    x = checks.images(x, structure.input_shape, box, dtype)
    return x, checks.labels(y, len(x), structure.output_shape[0])


def _search(
    tolerance: float, radii: Sequence[float], unit: float, box: Box | None, dtype: str
) -> Search:
    """Refuses (`ValueError`) a tolerance or radii outside their ranges.

    No ball need be larger than the diameter of the box, `unit` times its width; without a box
    there is no such radius, and the search starts from `unit` and the radii.
    """
    limit = float(np.finfo(dtype).max) if box is None else unit * (box[1] - box[0])
    width = checks.number(tolerance)
    if width is None or not 0 < width <= limit:
        raise ValueError(
            f"tolerance must be above 0 and at most {limit:g}, in pixels, got {tolerance!r}"
        )
    given = [checks.number(radius) for radius in np.atleast_1d(np.asarray(radii, object))]
    known = [radius for radius in given if radius is not None and 0 < radius <= limit]
    if len(known) < len(given):
        raise ValueError(f"radii must be above 0 and at most {limit:g}, in pixels, got {radii!r}")
    if box is not None:
        return Search(width, limit, dtype=dtype).at(known)
    start = max([unit, *known])
    return Search(width, min(_GROWTH * start, limit), start, dtype=dtype).at(known)


def _check_complete(norm: str, sound: bool) -> None:
    """Refuses (`ValueError`) what complete verification has no answer to."""
    if norm not in DECIDED:
        raise ValueError(
            f"norm must be {' or '.join(DECIDED)} where complete is true, got {norm!r}"
        )
    if sound:
        raise ValueError("sound must be False where complete is true: its search rounds, got True")


@contextlib.contextmanager
def _bar(label: str, total: int, progress: bool) -> Iterator[Done]:
    """What is called with a number of images that are done; shown as a bar where asked for."""
    if not progress:
        yield lambda count: None
        return
    bar = Bar(label, total, compiling=total > 0)

    def done(count: int) -> None:
        if count:
            bar.advance(count)
            bar.show([RATE])

    try:
        yield done
    finally:
        bar.close()
