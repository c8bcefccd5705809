"""Arguments without effect are listed, and the list holds no others."""
from __future__ import annotations

import ast
import inspect
import logging
import textwrap

import pytest

from detkit.ignored_arguments import IGNORED, is_ignored, named, warn_if_ignored
from detkit.nn.ms_deform_attn import MultiScaleDeformableAttention
from detkit.registry import REGISTRIES


def unread_arguments(cls: type) -> set[str]:
    """Parameters of the constructor that its body does not mention."""
    constructor = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__))).body[0]
    mentioned = {node.id for statement in constructor.body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    arguments = constructor.args
    return {a.arg for a in (*arguments.args[1:], *arguments.kwonlyargs)} - mentioned


def test_every_argument_that_a_constructor_does_not_read_is_listed():
    classes = {registry.get(key) for registry in REGISTRIES.values() for key in registry._modules} | {MultiScaleDeformableAttention}
    own = {base for cls in classes if inspect.isclass(cls) for base in cls.__mro__
           if base.__module__.startswith('detkit.') and '__init__' in vars(base)}
    unread = {cls.__name__: names for cls in own if (names := unread_arguments(cls))}
    listed = {cls: set(names) for cls, names in IGNORED.items() if cls not in ('*', 'RoIAlign')}     # RoIAlign is a table of settings
    assert unread == listed


def test_the_log_names_it_once(caplog: pytest.LogCaptureFixture):
    named.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            warn_if_ignored('FCNMaskHead', 'roi_feat_size', 14)
            warn_if_ignored('FCNMaskHead', 'num_convs', 4)
    assert [record.message for record in caplog.records] == [
        'FCNMaskHead: roi_feat_size=14 has no effect: the head takes features of any size.']
    assert is_ignored('DenseTraining', 'debug') and not is_ignored('FCNMaskHead', 'num_convs')
