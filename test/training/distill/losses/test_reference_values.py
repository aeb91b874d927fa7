"""What the authors' code gives on the reference tensors, without the method's weight."""

import pytest

torch = pytest.importorskip('torch')

import distillation_inputs as inputs  # noqa: E402

from training.distill.losses import make  # noqa: E402
from training.distill.losses.factor import factor_distance  # noqa: E402


def identity_convolution(convolution: torch.nn.Conv2d) -> None:
    torch.nn.init.dirac_(convolution.weight)
    if convolution.bias is not None:
        torch.nn.init.zeros_(convolution.bias)


@pytest.mark.parametrize(
    ('name', 'settings', 'tensors', 'value'),
    [
        ('kd', {'temperature': 4}, inputs.logits, 1.218656186),
        ('kd', {'temperature': 1}, inputs.logits, 0.827549097),
        ('fitnet', {}, inputs.maps, 0.998633051),
        ('at', {}, inputs.maps, 0.013179526),
        ('sp', {}, inputs.maps, 0.080241935),
        ('rkd', {}, inputs.vectors, 4.359085459),
        ('ab', {}, inputs.maps, 0.213726717),
        ('cwd', {'temperature': 1}, inputs.maps, 0.094386525),
        ('dist', {'temperature': 1}, inputs.logits, 2.419148435),
        ('bckd', {}, inputs.logits, 2.502829228),
    ],
)
def test_values(name, settings, tensors, value):
    assert make(name, **settings)(*tensors()).item() == pytest.approx(value, abs=1e-9)


def test_vid_with_an_identity_mean():
    torch.set_default_dtype(torch.float64)
    try:
        loss = make('vid', student_channels=3, teacher_channels=3)
    finally:
        torch.set_default_dtype(torch.float32)
    for layer in loss.mean:
        if isinstance(layer, torch.nn.Conv2d):
            identity_convolution(layer)
    assert loss(*inputs.maps()).item() == pytest.approx(0.888380555, abs=1e-9)


def test_crd():
    """Each direction of the authors' test case: eight samples, four dimensions, three negatives."""
    rows = {'student_bank': torch.sin, 'teacher_bank': torch.cos}
    loss = make(
        'crd', student_features=4, teacher_features=4, class_ids=[0, 1, 0, 0, 1, 2, 1, 1], embedding=4, negatives=3
    ).double()
    for name, wave in rows.items():
        getattr(loss, name).copy_(torch.nn.functional.normalize(wave(0.7 * inputs.index(8, 4))))
    for head in (loss.student_head, loss.teacher_head):
        torch.nn.init.eye_(head.weight)
        torch.nn.init.zeros_(head.bias)
    i = inputs.index(2, 4)
    total = loss(
        torch.sin(0.9 * i + 0.3),
        torch.cos(0.9 * i),
        indices=torch.tensor([1, 5]),
        candidates=torch.tensor([[1, 0, 2, 3], [5, 4, 6, 7]]),
    )
    assert loss.normalizers.tolist() == pytest.approx([722239.360241, 1300628.210997], abs=1e-6)
    assert total.item() == pytest.approx(16.614512641 + 14.065581336, abs=2e-9)


def test_fgfi():
    """One box on 8 × 8 cells of stride 8, two anchors."""
    i = inputs.index(3, 8, 8)
    loss = make('fgfi', strides=[8], anchors=[[(16, 16), (32, 16)]])
    box = torch.tensor([[10, 12, 30, 28]], dtype=inputs.FLOAT)
    value = loss([torch.sin(0.1 * i)[None]], [torch.cos(0.1 * i)[None]], [box])
    assert value.item() == pytest.approx(2.427335026, abs=1e-9)


# Of the rest there is only the formula. It is computed here element by element, in another way than in the package.


def by_loops_pkt(s, t):
    def probabilities(f):
        n = len(f)
        cosine = [[(f[i] @ f[j]) / (f[i].norm() * f[j].norm()) for j in range(n)] for i in range(n)]
        rows = [[(cosine[i][j] + 1) / 2 for j in range(n)] for i in range(n)]
        return [[value / sum(row) for value in row] for row in rows]

    ps, pt = probabilities(s), probabilities(t)
    n = len(s)
    return sum(pt[i][j] * (pt[i][j] / ps[i][j]).log() for i in range(n) for j in range(n)) / n**2


def by_loops_nst(s, t):
    def mean_kernel(a, b):
        values = []
        for n in range(len(a)):
            for p in a[n].flatten(1):
                for q in b[n].flatten(1):
                    values.append(((p @ q) / (p.norm() * q.norm())) ** 2)
        return sum(values) / len(values)

    return mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)


def by_loops_pkd(s, t):
    """Half the squared distance of standardised channels is (1 − ρ)·(n − 1)/n."""
    total = 0
    for c in range(s.shape[1]):
        a, b = s[:, c].flatten(), t[:, c].flatten()
        total += (1 - torch.corrcoef(torch.stack([a, b]))[0, 1]) * (len(a) - 1) / len(a)
    return total / s.shape[1]


def by_loops_fsp(s, t):
    total = 0
    for n in range(2):
        for i in range(3):
            for j in range(3):
                total += ((s[n, i] * s[n, j]).mean() - (t[n, i] * t[n, j]).mean()) ** 2
    return total / 18


def by_loops_ld(s, t):
    total = 0
    for row_s, row_t in zip(s, t, strict=True):
        p, q = torch.exp(row_t / 10), torch.exp(row_s / 10)
        p, q = p / p.sum(), q / q.sum()
        total += 100 * sum(p[b] * torch.log(p[b] / q[b]) for b in range(5)) / 5
    return total / 2


def by_loops_dkd(s, t):
    total = 0
    for row_s, row_t, label in zip(s, t, inputs.LABELS, strict=True):
        p, q = torch.exp(row_t / 4), torch.exp(row_s / 4)
        p, q = p / p.sum(), q / q.sum()
        a, b = p[label], q[label]
        total += a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()
        for c in range(5):
            if c != label:
                total += 8 * p[c] / (1 - a) * ((p[c] / (1 - a)) / (q[c] / (1 - b))).log()
    return total * 16 / 2


def by_loops_binary_kd(s, t):
    total = 0
    for own, others in zip(s, t, strict=True):
        weight = 1 / (1 + torch.exp(-others.max()))
        for x, y in zip(own / 2, others / 2, strict=True):
            p, q = 1 / (1 + torch.exp(-y)), 1 / (1 + torch.exp(-x))
            total += weight * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    return total * 4


def by_loops_ft(s, t):
    def unit(f):
        squares = (f[0] ** 2 + f[1] ** 2 + f[2] ** 2) / 3
        return squares / (squares**2).sum().sqrt()

    return sum((unit(a) - unit(b)).abs().sum() for a, b in zip(s, t, strict=True)) / 32


@pytest.mark.parametrize(
    ('loss', 'tensors', 'formula', 'tolerance'),
    [
        # ε, 1e-7 in probabilities of a quarter and in lengths, is left out of the loops.
        (lambda s, t: make('pkt')(s, t), inputs.vectors, by_loops_pkt, 1e-6),
        (lambda s, t: make('nst')(s, t), inputs.maps, by_loops_nst, 1e-12),
        # and 1e-6 of the standard deviation here
        (lambda s, t: make('pkd')(s, t), inputs.maps, by_loops_pkd, 1e-5),
        (lambda s, t: make('fsp')([s, s], [t, t]), inputs.maps, by_loops_fsp, 1e-12),
        (lambda s, t: make('ld')(s, t), inputs.logits, by_loops_ld, 1e-12),
        (lambda s, t: make('dkd')(s, t, inputs.LABELS), inputs.logits, by_loops_dkd, 1e-12),
        (lambda s, t: make('binary_kd', temperature=2)(s, t), inputs.logits, by_loops_binary_kd, 1e-12),
        (factor_distance, inputs.maps, by_loops_ft, 1e-12),
    ],
    ids=['pkt', 'nst', 'pkd', 'fsp', 'ld', 'dkd', 'binary_kd', 'ft'],
)
def test_formulas(loss, tensors, formula, tolerance):
    assert loss(*tensors()).item() == pytest.approx(float(formula(*tensors())), rel=tolerance)


def test_cc_multiplies_the_differences_of_neighbors():
    loss = make('cc', student_features=6, teacher_features=6, features=6).double()
    for embedding in (loss.student_embedding, loss.teacher_embedding):
        torch.nn.init.eye_(embedding.weight)
        torch.nn.init.zeros_(embedding.bias)
    s, t = inputs.vectors()
    wanted = sum(abs(s[n, d] - t[n, d]) * abs(s[n + 1, d] - t[n + 1, d]) for n in range(3) for d in range(6)) / 3
    assert loss(s, t).item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize(('masked', 'seen'), [(0.0, 1.0), (1.0, 0.0)])
def test_mgd_generates_from_what_it_sees(masked, seen):
    loss = make('mgd', student_channels=3, teacher_channels=3, alpha=0.5, masked=masked).double()
    identity_convolution(loss.generation[0])
    identity_convolution(loss.generation[2])
    s, t = inputs.maps()
    wanted = 0.5 * ((s.clamp(min=0) * seen - t) ** 2).sum() / 2
    assert loss(s, t).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_mgd_masks_its_share_of_positions_in_all_channels():
    loss = make('mgd', student_channels=2, teacher_channels=2, alpha=1.0).double()
    identity_convolution(loss.generation[0])
    identity_convolution(loss.generation[2])
    student, teacher = torch.ones(4, 2, 50, 50, dtype=inputs.FLOAT), torch.zeros(4, 2, 50, 50, dtype=inputs.FLOAT)
    seen = loss(student, teacher).item() / (2 * 50 * 50)
    assert seen == pytest.approx(1 - 0.65, abs=0.03)


def test_bckd_adds_the_boxes_distance():
    s, t = inputs.logits()
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]).double(), torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2]]).double()
    weight = (t[0].sigmoid() - s[0].sigmoid()).abs().max().item()
    # The boxes overlap in 1 of 7 and lie in a hull of 9; the second pair is equal.
    wanted = 2.502829228 + 4 * weight * (1 - (1 / 7 - 2 / 9))
    assert make('bckd')(s, t, 1, *boxes).item() == pytest.approx(wanted, abs=1e-9)
    assert make('bckd')(s, t, 3, *boxes).item() == pytest.approx(wanted / 3, abs=1e-9)


def test_ab_halves_the_weight_of_each_layer_before_the_last():
    s, t = inputs.maps()
    one = make('ab')(s, t).item()
    assert make('ab')([s, s, s], [t, t, t]).item() == pytest.approx(one * (0.25 + 0.5 + 1), rel=1e-12)
