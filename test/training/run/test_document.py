"""A recipe's document before it is checked: one entry that prunes step by step becomes a chain of stages."""

import pytest

from training.errors import RecipeError
from training.run.document import with_iterations

TUNE = {'images': {'photos': 8}, 'fit': {'steps': 4}, 'teacher': 'big', 'distill': {'terms': [{'loss': 'cwd'}]}}


def test_pruning_in_steps_is_a_chain_that_ends_with_its_name():
    chain = with_iterations(
        {
            'big': {'start': 'yolov8n.yaml'},
            'slim': {'start': 'big', 'prune': {'method': 'bn', 'ratio': 0.5, 'steps': 3}, 'tune': TUNE},
            'last': {'start': 'slim'},
        }
    )
    assert list(chain) == [
        'big',
        'slim_prune1',
        'slim_tune1',
        'slim_prune2',
        'slim_tune2',
        'slim_prune3',
        'slim',
        'last',
    ]
    assert [stage['start'] for stage in chain.values()][1:] == [
        *('big', 'slim_prune1', 'slim_tune1', 'slim_prune2', 'slim_tune2', 'slim_prune3', 'slim')
    ]
    part = chain['slim_prune2']['prune']
    assert (1 - part.pop('ratio')) ** 3 == pytest.approx(0.5, abs=1e-4)
    assert part == {'method': 'bn'}
    assert chain['slim'] == {**TUNE, 'start': 'slim_prune3'}


@pytest.mark.parametrize(
    ('stage', 'message'),
    [
        ({'start': 'a', 'tune': TUNE}, r'tune trains between steps of pruning: prune: \{ratio: 0.5, steps: 3\}'),
        ({'start': 'a', 'prune': {'ratio': 0.5, 'steps': 3}}, 'prune.steps needs tune'),
        ({'start': 'a', 'prune': {'latency_ms': 5, 'steps': 3}, 'tune': TUNE}, 'one of ratio, cut_parameters'),
        ({'start': 'a', 'prune': {'ratio': 0.5, 'steps': 0}, 'tune': TUNE}, 'must be from 1 to 100, not 0'),
        ({'start': 'a', 'prune': {'ratio': 0.5, 'steps': True}, 'tune': TUNE}, 'must be from 1 to 100, not True'),
    ],
)
def test_what_makes_no_chain_is_refused(stage, message):
    with pytest.raises(RecipeError, match=f'stages.slim.*{message}'):
        with_iterations({'slim': stage})


def test_all_else_stays_as_it_is():
    stages = {'one': {'start': 'a', 'prune': {'ratio': 0.5}}, 'two': 'nonsense'}
    assert with_iterations(stages) == stages
