"""The page of a certificate and the figure of radii: what was proven, hardest first."""

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from eval import figures, proven
from robustra_tf.certificates.certificate import Certificate
from tests.test_eval_report import Page

MARGINS = np.array(
    [[0, 2.0, 1.5], [0.5, 0, 3.0], [-2.0, -0.25, 0], [0, np.nan, 1.0], [1.0, 0, 1.0]]
)
LABELS = np.array([0, 1, 2, 0, 1])
PREDICTED = np.array([0, 1, 1, 0, 1])


def certificate(count=5, **changed):
    given = {
        "margin_lower": MARGINS[:count],
        "labels": LABELS[:count],
        "predicted": PREDICTED[:count],
        "eps": 0.1,
        "norm": "linf",
        "box": (0.0, 1.0),
        "method": "dual",
        "mode": "float32",
    }
    return Certificate(**given | changed)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of five images, each of one grey."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    images = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((1, 4, 4, 1))
    proven.build(path, certificate(), images, ("f & g", "<b>a folder</b>"))
    return path.read_text(encoding="utf-8")


def test_images_stand_in_the_order_of_their_margins(written):
    page = Page(written)
    order = [3, 2, 1, 4, 0]  # what is not known is hardest
    shown = [int(number) for number in re.findall(r"<figcaption>no. (\d+)", written)]
    assert shown == order
    rows = re.findall(r"<tr><td class=\"number\">(\d+)</td>.*\n", written)
    assert rows[-5:] == [str(number) for number in order]
    greys = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="image', written)
    for number, png in zip(order, greys, strict=True):
        pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))[..., 0]
        np.testing.assert_allclose(pixels, number / 4, atol=1 / 255)
    assert "classified as 1" in written
    assert "&lt;b&gt;a folder&lt;/b&gt;" in written
    assert "<b>" not in written
    assert page.tags.count("script") == 0


def test_the_counts_are_the_certificates(written):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", written))
    for words in ("certified 3 60.00%", "not certified 1 20.00%", "misclassified 1 20.00%"):
        assert words in text
    assert "0 2 100.00% 50.00%" in text  # class 0: one of its two is not known
    assert "2 1 0.00% 0.00% -2" in text
    assert 'media="(prefers-color-scheme: dark)"' in written


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="report: expected a certificate of at least one image"):
        proven.build(tmp_path / "page.html", certificate(0), np.zeros((0, 4, 4, 1)), ("f", "none"))


def test_a_certificates_tables():
    found = certificate()
    assert found.columns()["worst_margin"].tolist() == [1.5, 0.5, -2.0, -np.inf, 1.0]
    classes = found.by_class()
    assert classes["label"].tolist() == [0, 1, 2]
    assert classes["images"].tolist() == [2, 2, 1]
    assert classes["certified"].tolist() == [0.5, 1.0, 0.0]
    assert classes["correct"].tolist() == [1.0, 1.0, 0.0]
    assert classes["median_margin"].tolist() == [-np.inf, 0.75, -2.0]


def test_the_curve_of_radii_has_its_steps_at_the_radii():
    radius, certified, attacked = np.array([0, 0.1, 0.2]), np.array([1, 0.8, 0]), np.ones(3)
    (axes,) = figures.radius_curve(radius, certified, attacked, "l2").axes
    upper, lower = axes.lines
    np.testing.assert_array_equal(lower.get_xdata(), radius)
    np.testing.assert_array_equal(lower.get_ydata(), 100 * certified)
    # A certificate holds up to its radius, an attack from its own on.
    assert (lower.get_drawstyle(), upper.get_drawstyle()) == ("steps-pre", "steps-post")
    assert axes.get_xlabel() == "l2 radius in pixels of [0, 1]"


def test_a_dark_page_has_dark_figures():
    grounds = []
    for dark in (False, True):
        with figures.on_page(dark):
            figure = figures.sorted_margins(
                np.array([-1.0, np.inf, 2.0]), np.array([0, 0, 1], bool)
            )
            grounds.append(sum(figure.get_facecolor()[:3]))
    assert grounds[0] > 2.9
    assert grounds[1] < 0.5
