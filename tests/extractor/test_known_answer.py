"""Operations are checked against float64 before their results count. Faults are put below the check, where a library's
would be: a mode of torch's own that answers some calls wrongly."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from extractor.core.backbone_specs import Precision
from extractor.core.exit_codes import GpuFault
from extractor.gpu.card import GIB, Host
from extractor.gpu.known_answer import BOUNDS, KnownAnswers
from extractor.gpu.operations import SIGNATURES, Way

CPU = torch.device("cpu")
NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last


class Library(TorchFunctionMode):
    """torch's functions, and what a fault makes of the results of those that are not in float64."""

    def __init__(self, fault: Callable[[Tensor, Tensor], Tensor | None], function: Callable = torch.conv2d) -> None:
        super().__init__()
        self.fault = fault
        self.function = function
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is not self.function or args[0].dtype is torch.float64:
            return result
        self.calls += 1
        faulty = self.fault(args[0], result)
        return result if faulty is None else faulty


class Virtual(Host):
    """A card whose clock and memory stand still but for what a library's fault adds."""

    clock = 0.0
    extra = 0

    def seconds(self, run):
        before = self.clock
        run()
        return self.clock - before

    def workspace(self, run):
        self.extra = 0
        return run(), self.extra


def conv(**options) -> tuple[nn.Conv2d, Tensor]:
    """A convolution and eight images, channels-last as the networks' are."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 64, 3, padding=1, **options).requires_grad_(False).to(memory_format=CHANNELS_LAST)
    return layer, torch.randn(8, 32, 20, 30).contiguous(memory_format=CHANNELS_LAST)


def checked(layer: Callable[[Tensor], Tensor], x: Tensor, fault=None, card: Host | None = None, function=torch.conv2d):
    """What the layer gives below the check, with the check itself."""
    answers = KnownAnswers(card or Host(CPU), Precision.FP32)
    with torch.inference_mode(), Library(fault or (lambda *_: None), function), answers:
        return layer(x), answers


def off(result: Tensor, share: float = 0.83) -> Tensor:
    return result + share * result.abs().max()


def test_what_is_right_is_left_as_it_is() -> None:
    layer, x = conv()
    found, answers = checked(layer, x)

    assert torch.equal(found, layer(x))
    assert found.stride() == layer(x).stride()
    (answer,) = answers.answers
    assert answer.operation == "conv2d 32->64 3x3 on 20x30, batch 8, float32"
    assert answer.chosen.deviation < 2e-6
    assert answers.notes() == []


FAULTS = {
    "for eight images": lambda x, y: off(y) if len(x) == 8 else None,
    "for more than two": lambda x, y: off(y) if len(x) > 2 else None,
    "in the last image": lambda x, y: torch.cat([y[:7], off(y[7:])]) if len(x) == 8 else None,
    "in one channel": lambda x, y: y.index_fill(1, torch.tensor([5]), 0) if len(x) == 8 else None,
    "in the last row": lambda x, y: y.index_fill(2, torch.tensor([19]), 0) if len(x) == 8 else None,
    "not a number": lambda x, y: y * float("nan") if len(x) == 8 else None,
    "a little": lambda x, y: off(y, 1e-3) if len(x) == 8 else None,
    "channels-last": lambda x, y: off(y) if not x.is_contiguous() else None,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_computed_another_way_that_is_right(fault) -> None:
    layer, x = conv()
    found, answers = checked(layer, x, fault)

    right = layer(x)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
    assert found.stride() == right.stride()
    (note,) = answers.notes()
    assert note.startswith("conv2d 32->64 3x3 on 20x30, batch 8, float32: ")


def test_the_fewest_pieces_that_pass_are_taken() -> None:
    layer, x = conv()

    _, answers = checked(layer, x, FAULTS["for more than two"])

    assert answers.answers[0].chosen.way == Way(None, 4)
    assert "in 4 pieces, as whole: off by" in answers.notes()[0]


def test_each_shape_is_checked_once() -> None:
    layer, x = conv()
    answers = KnownAnswers(Host(CPU), Precision.FP32)
    library = Library(FAULTS["for eight images"])
    with torch.inference_mode(), library, answers:
        layer(x)
        before = library.calls
        layer(x)
        assert library.calls == before + 2  # the pieces
        layer(x[:, :, :10])
        layer(x[:3])

    assert [answer.operation.split(" on ")[1] for answer in answers.answers] == [
        "20x30, batch 8, float32",
        "10x30, batch 8, float32",
        "20x30, batch 3, float32",
    ]
    assert [answer.chosen.way.pieces for answer in answers.answers] == [2, 2, 1]


def test_where_no_way_is_right_the_run_ends_with_what_was_found() -> None:
    layer, x = conv()

    with pytest.raises(GpuFault) as error:
        checked(layer, x, lambda _, y: off(y))

    said = str(error.value)
    assert "conv2d 32->64 3x3 on 20x30, batch 8, float32 is not computed rightly here" in said
    assert re.search(r"whole: off by \d\.\de[-+]0[01] of its largest value \(at most 1e-04 is rounding\)", said)
    assert "in 8 pieces, NCHW: off by" in said
    assert f"torch {torch.__version__}, cpu" in said
    assert "take another node" in said


def test_an_operation_may_take_four_gibibytes_beside_its_result() -> None:
    layer, x = conv()
    card = Virtual(CPU)

    def greedy(x: Tensor, _: Tensor) -> None:
        card.extra = max(card.extra, (64 if len(x) == 8 else 3) * GIB)

    _, answers = checked(layer, x, greedy, card)

    assert answers.notes() == [
        "conv2d 32->64 3x3 on 20x30, batch 8, float32: in 2 pieces, as whole: 64.0 GiB of workspace (at most 4)"
    ]


def test_what_does_not_fit_whole_is_computed_in_pieces() -> None:
    layer, x = conv()

    def full(x: Tensor, _: Tensor) -> None:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB")

    found, answers = checked(layer, x, full)

    torch.testing.assert_close(found, layer(x), rtol=0, atol=1e-5)
    assert "in 2 pieces, as whole: OutOfMemoryError: CUDA out of memory" in answers.notes()[0]


def test_where_not_even_one_image_fits_it_is_no_fault_of_the_gpu() -> None:
    layer, x = conv()

    def full(*_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError, match="conv2d 32->64"):
        checked(layer, x, full)


def test_a_broken_context_is_not_used_again() -> None:
    layer, x = conv()
    broken = Library(lambda *_: (_ for _ in ()).throw(torch.AcceleratorError("CUDA error: unspecified launch failure")))

    with (
        pytest.raises(torch.AcceleratorError),
        torch.inference_mode(),
        broken,
        KnownAnswers(Host(CPU), Precision.FP32),
    ):
        layer(x)
    assert broken.calls == 1


@pytest.mark.parametrize(
    ("slow", "times", "layout"),
    [(CHANNELS_LAST, 16.0, NCHW), (NCHW, 16.0, None), (CHANNELS_LAST, 1.4, None)],
    ids=["channels-last is slow", "NCHW is slow", "the difference is small"],
)
def test_the_layout_is_the_faster_one_by_measurement(slow, times, layout, monkeypatch) -> None:
    monkeypatch.setattr("extractor.gpu.known_answer.WORTH_TIMING", 0)
    layer, x = conv(dilation=2)
    card = Virtual(CPU)

    def costly(x: Tensor, _: Tensor) -> None:
        lying = NCHW if x.is_contiguous() else CHANNELS_LAST
        card.clock += times if lying is slow else 1.0

    found, answers = checked(layer, x, costly, card)

    assert answers.answers[0].chosen.way == Way(layout, 1)
    torch.testing.assert_close(found, layer(x), rtol=0, atol=1e-5)
    assert found.stride() == layer(x).stride()
    if layout is not None:
        assert answers.notes() == [
            "conv2d 32->64 3x3 dilation 2 on 20x30, batch 8, float32: whole, NCHW "
            "(16.0 times as fast as in the other layout)"
        ]


def test_a_fast_layout_that_is_wrong_is_not_taken(monkeypatch) -> None:
    monkeypatch.setattr("extractor.gpu.known_answer.WORTH_TIMING", 0)
    layer, x = conv()
    card = Virtual(CPU)

    def tempting(x: Tensor, y: Tensor) -> Tensor | None:
        card.clock += 0.1 if x.is_contiguous() else 1.0
        return off(y) if x.is_contiguous() else None

    found, answers = checked(layer, x, tempting, card)

    assert torch.equal(found, layer(x))
    assert answers.answers[0].chosen.way == Way(None, 1)


ROWS, DEEP, WIDE = 40, 24, 16


def _products() -> dict[str, tuple[Callable, Callable[[], tuple[Tensor, ...]], dict]]:
    def two() -> tuple[Tensor, Tensor]:
        return torch.randn(ROWS, DEEP), torch.randn(DEEP, WIDE)

    def many() -> tuple[Tensor, Tensor]:
        return torch.randn(6, ROWS, DEEP), torch.randn(6, DEEP, WIDE)

    def added() -> Tensor:
        return torch.randn(WIDE)

    scaled = {"beta": 0.5, "alpha": 2.0}
    return {
        "linear": (functional.linear, lambda: (torch.randn(5, ROWS, DEEP), torch.randn(WIDE, DEEP), added()), {}),
        "matmul": (torch.matmul, two, {}),
        "matmul of many": (torch.matmul, many, {}),
        "matmul broadcast": (torch.matmul, lambda: (torch.randn(ROWS, DEEP), torch.randn(6, DEEP, WIDE)), {}),
        "@": (torch.Tensor.matmul, two, {}),
        "mm": (torch.mm, two, {}),
        "bmm": (torch.bmm, many, {}),
        "addmm": (torch.addmm, lambda: (added(), *two()), scaled),
        "addmm_": (torch.Tensor.addmm_, lambda: (torch.randn(ROWS, WIDE), *two()), scaled),
        "baddbmm": (torch.baddbmm, lambda: (torch.randn(6, ROWS, WIDE), *many()), scaled),
        "addmm with relu": (torch._addmm_activation, lambda: (added(), *two()), {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", _products())
def test_matrix_products_that_are_right_are_left_as_they_are(name) -> None:
    torch.manual_seed(0)
    function, make, options = _products()[name]
    operands = make()
    right = function(*(each.clone() for each in operands), **options)

    answers = KnownAnswers(Host(CPU), Precision.FP32)
    with torch.inference_mode(), answers:
        found = function(*(each.clone() for each in operands), **options)

    assert torch.equal(found, right)
    assert answers.answers[0].chosen.deviation < 1e-6


@pytest.mark.parametrize("name", sorted(_products().keys() - {"matmul broadcast"}))
def test_matrix_products_are_checked_and_mended_too(name) -> None:
    torch.manual_seed(0)
    function, make, options = _products()[name]
    operands = make()
    right = function(*(each.clone() for each in operands), **options)

    answers = KnownAnswers(Host(CPU), Precision.FP32)
    faulty = Library(lambda _, y: off(y) if len(y) == len(right) else None, function)
    if name == "addmm_":  # pieces are made of addmm, as they have no memory of their own
        faulty.fault = lambda _, y: y.add_(9)
    with torch.inference_mode(), faulty, answers:
        mine = [each.clone() for each in operands]
        found = function(*mine, **options)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
    assert "in 2 pieces" in answers.notes()[0]
    if name == "addmm_":
        assert found.data_ptr() == mine[0].data_ptr()


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (3, 64, 7, 2, 3, 1, 1),
        (64, 64, 3, 1, 1, 1, 64),
        (64, 64, 3, 2, 1, 1, 8),
        (96, 32, 1, 2, 0, 1, 1),
        (512, 64, 3, 1, 2, 2, 1),
    ],
    ids=["stem", "depthwise", "grouped, strided", "1x1, strided", "dilated, deep"],
)
def test_rounding_alone_stays_far_below_the_bound(dtype, shape) -> None:
    channels, out, side, stride, padding, dilation, groups = shape
    torch.manual_seed(1)
    layer = nn.Conv2d(channels, out, side, stride, padding, dilation, groups).to(dtype)

    _, answers = checked(layer, torch.randn(2, channels, 23, 17).to(dtype))

    assert answers.answers[0].chosen.deviation < BOUNDS[dtype] / 4


def test_an_overflow_of_the_input_is_not_the_operations_fault() -> None:
    layer, x = conv()
    x[3] = float("inf")

    _, answers = checked(layer, x)

    assert answers.notes() == []


def test_all_convolutions_and_products_that_torch_is_asked_for_are_seen(detector_maps) -> None:
    """Counted by torch's dispatcher, below any function's name."""
    seen, counted = detector_maps

    assert seen == counted > 100


@pytest.fixture(scope="module")
def detector_maps() -> tuple[int, int]:
    """Of a ResNet-50 with a head: the operations that pass the check, and those that the dispatcher computes."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torchvision.models import resnet101

    products = {"convolution", "mm", "addmm", "bmm", "baddbmm", "linear", "conv2d", "matmul"}

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.overloadpacket.__name__ in products and args[0].dtype is not torch.float64
            return func(*args, **(kwargs or {}))

    class Seen(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += func in SIGNATURES
            return func(*args, **(kwargs or {}))

    network = resnet101().eval()
    with torch.no_grad(), Counter() as counter, Seen() as seen:
        network(torch.randn(1, 3, 32, 32))
    return seen.count, counter.count
