"""What the documents say is so: each command in a bash block is checked, marked blocks are run, names exist.

``<!-- run -->``: the block runs by itself, in the repository. ``<!-- run on -->``: it goes on with the program of the marked block before
it. The blocks of a page that are marked ``<!-- run here -->`` run one after another in one new folder; ``<!-- file NAME -->`` writes a
block there, ``<!-- printed -->`` says what the command before it must have printed, and ``<!-- run here with PACKAGE -->`` needs a package.
"""
from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from detkit.cli import main, parser
from detkit.config import config_folder, find_config
from detkit.registry import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md')),
             ROOT / 'data/README.md', ROOT / 'benchmarks/README.md', ROOT / 'tests/parity/README.md']
FENCE = re.compile(r'^(?P<mark><!-- run( on)? -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$', re.M | re.S)
STEP = re.compile(r'^<!-- (?P<what>run here|printed|file)( (with )?(?P<name>\S+))? -->\n```(?P<language>\w+)\n(?P<body>.*?)^```$',
                  re.M | re.S)
TOOL = re.compile(r'(?:python )?tools/(\w+)\.py')
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / 'setup.cfg')


MADE_CONFIGS = {name for document in DOCUMENTS for name in re.findall(r'^<!-- file (\S+) -->$|--out (\S+\.py)', document.read_text(), re.M)
                for name in name if name}


def blocks(language: str) -> list[tuple[str, str, str]]:
    """(where, body, its mark) of every fenced block in ``language``."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding='utf-8')
        for match in FENCE.finditer(text):
            if match['language'] == language:
                line = text[:match.start()].count('\n') + 1
                found.append((f'{document.relative_to(ROOT)}:{line}', match['body'], match['mark'] or ''))
    return found


def programs(language: str) -> list[tuple[str, str]]:
    """(where, body) of what is marked to run."""
    found: list[tuple[str, str]] = []
    for where, body, mark in blocks(language):
        if ' on ' in mark:
            found[-1] = found[-1][0], found[-1][1] + body
        elif mark:
            found.append((where, body))
    return found


def commands() -> list[tuple[str, str]]:
    """(where, command) of every line in every bash block, parts of ``a && b`` apart."""
    return [(where, part.strip()) for where, body, _ in blocks('bash')
            for line in body.splitlines() if line.strip() for part in line.split(' && ')]


def check(command: str) -> None:
    """Raise AssertionError for a command that cannot work as it stands."""
    words = shlex.split(command)
    while re.fullmatch(r'[A-Z_]+=\S*', words[0]):        # VARIABLE=value before the command
        words = words[1:]
    if words[0] == 'make':
        targets = [w for w in words[1:] if '=' not in w]
        known = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
        assert targets and set(targets) <= known, f'no such target of the Makefile: {targets}'
    elif words[0] == 'detkit':
        check_tool(words[1:])
    elif words[0] == 'python' and words[1].startswith('tools/'):
        check_tool([Path(words[1]).stem.replace('_', '-'), *words[2:]], file=words[1])
    elif words[0] == 'python' and words[1].endswith('.py'):
        assert (ROOT / words[1]).is_file(), f'no such file: {words[1]}'
    elif words[:2] == ['python', '-m']:
        assert importlib.util.find_spec(words[2]), f'no such module: {words[2]}'
    elif words[0] in ('pip', 'uv', 'conda'):
        check_install(words)
    elif words[0] == 'jupyter':
        assert (ROOT / words[2]).is_file(), f'no such file: {words[2]}'
    else:
        assert words[:2] in (['python3', '-m'], ['source', '.venv/bin/activate'], ['python', '-c']), f'not known how to check: {command}'


def check_tool(words: list[str], file: str | None = None) -> None:
    """The tool exists, takes these arguments, and configs named by a path of the repository are there."""
    assert file is None or (ROOT / file).is_file(), f'no such tool: {file}'
    if '--list' in words or '--help' in words:
        return
    args = parser(words).parse_args(words)
    config = getattr(args, 'config', None)
    if config and not config.startswith(('mmdet::', 'my_')) and not config.endswith('.pth') and config not in MADE_CONFIGS:
        find_config(ROOT / config if config.startswith('configs/') else config)


def check_install(words: list[str]) -> None:
    """Extras in ``.[a,b]`` are those of setup.cfg."""
    for word in words:
        match = re.fullmatch(r'\.\[([\w,]+)\]', word)
        for extra in match[1].split(',') if match else ():
            assert extra in SETUP['options.extras_require'], f'no such extra: {extra}'


@pytest.mark.parametrize(('where', 'command'), commands(), ids=[f'{w} {c[:40]}' for w, c in commands()])
def test_a_command_in_the_documents_can_work(where: str, command: str):
    check(command)


@pytest.mark.parametrize('command', [
    'make nonsense', 'detkit trein x', 'python tools/trein.py', 'python tools/train.py configs/no/such.py', 'pip install -e ".[nothing]"',
    'python benchmarks/nothing.py', 'detkit train rtmdet_nano_bccd --no-such-option', 'brew install detkit'])
def test_a_wrong_command_would_be_noticed(command: str):
    with pytest.raises((AssertionError, ConfigError, SystemExit)):
        check(command)


@pytest.mark.parametrize(('where', 'body'), programs('bash'))
def test_a_marked_command_runs(where: str, body: str, tmp_path: Path):
    text = re.sub(r'^detkit ', 'python -m detkit.cli ', body, flags=re.M)
    text = re.sub(r'^python ', f'{shlex.quote(sys.executable)} ', text, flags=re.M)
    done = run(['bash', '-euc', text], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


@pytest.mark.parametrize(('where', 'body'), programs('python'))
def test_a_marked_program_runs(where: str, body: str, tmp_path: Path):
    done = run([sys.executable, '-c', body], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def pages() -> list[Path]:
    return [document for document in DOCUMENTS if '<!-- run here' in document.read_text(encoding='utf-8')]


@pytest.mark.parametrize('page', pages(), ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('DETKIT_DATA_ROOT', raising=False)
    output, left_out = '', []
    for step in STEP.finditer(page.read_text(encoding='utf-8')):
        if step['what'] == 'file':
            Path(step['name']).write_text(step['body'])
            stand_in_for_weights(step['body'])
        elif step['what'] == 'printed':
            for line in step['body'].splitlines():
                assert ' '.join(line.split()) in ' '.join(output.split()), output[-3000:]
        elif step['name'] and importlib.util.find_spec(step['name']) is None:
            left_out.append(f"{step['name']} is not installed")
        elif step['language'] == 'python':
            exec(compile(step['body'], page.name, 'exec'), {'__name__': '__main__'})
            output = capsys.readouterr().out
        else:
            for line in step['body'].splitlines():
                status = run_here(line)
                captured = capsys.readouterr()
                output = captured.out + captured.err
                assert status == 0, f'{line}\n{output[-3000:]}'
    if left_out:
        pytest.skip(', '.join(left_out))


def run_here(line: str) -> int:
    """Run a command in this process: a new one would take seconds to import what is there already."""
    words = shlex.split(line)
    if words[0] == 'detkit':
        return main(words[1:])
    if words[0] == 'python' and words[1].startswith('tools/'):
        return main([Path(words[1]).stem.replace('_', '-'), *words[2:]])
    assert words[:2] == ['python', '-c'], f'not known how to run: {line}'
    return subprocess.run([sys.executable, *words[1:]], timeout=60).returncode


def stand_in_for_weights(config: str) -> None:
    """Weights of MMDetection that a config loads, which are not here: those of a new model of the recipe, in the same form."""
    from detkit.config import load_config
    from detkit.data.datasets.coco_classes import COCO_CLASSES
    from detkit.registry import MODELS, register_all_modules
    for name, recipe in re.findall(r"^load_from = '((\S+)_\d{8}_\d{6}-[0-9a-f]{8}\.pth)'", config, re.M):
        import torch
        register_all_modules(init_default_scope=True)
        model = MODELS.build(load_config(recipe).model)
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=COCO_CLASSES))), name)


def run(command: list[str], tmp_path: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'DETKIT_DATA_ROOT': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def imports() -> list[tuple[str, str, str]]:
    """(where, module, name) of what Python blocks import from detkit."""
    found = []
    for where, body, _ in blocks('python'):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('detkit'):
                found += [(where, node.module, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize(('where', 'module', 'name'), imports())
def test_a_name_that_the_documents_import_exists(where: str, module: str, name: str):
    assert hasattr(importlib.import_module(module), name)


def mentioned() -> list[str]:
    """Dotted names of detkit in backquotes."""
    text = '\n'.join(document.read_text(encoding='utf-8') for document in DOCUMENTS)
    return sorted({match[1] for match in re.finditer(r'`(detkit(?:\.\w+)+)[`(]', text)})


@pytest.mark.parametrize('dotted', mentioned())
def test_a_dotted_name_in_the_documents_exists(dotted: str):
    module, rest = dotted, []
    while importlib.util.find_spec(module) is None:
        module, _, last = module.rpartition('.')
        rest.insert(0, last)
    thing = importlib.import_module(module)
    for name in rest:
        thing = getattr(thing, name)


def links() -> list[tuple[Path, str]]:
    return [(document, target) for document in DOCUMENTS
            for target in re.findall(r'\]\((?!https?://)([^)\s]+)\)', document.read_text(encoding='utf-8'))]


@pytest.mark.parametrize(('document', 'target'), links(), ids=[f'{d.name}-{t}' for d, t in links()])
def test_a_link_leads_to_a_file_and_a_heading(document: Path, target: str):
    name, _, anchor = target.partition('#')
    path = (document.parent / name).resolve() if name else document
    assert path.exists()
    if anchor:
        headings = re.findall(r'^#+ (.+)$', path.read_text(encoding='utf-8'), re.M)
        assert anchor in {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_paths_in_tables_and_text_exist():
    """Files that the documents name with their folder, in backquotes."""
    folders = ('detkit/', 'tools/', 'tests/', 'docs/', 'notebooks/', 'benchmarks/', '.ci/')
    text = '\n'.join(document.read_text(encoding='utf-8') for document in DOCUMENTS)
    named = {path for path in re.findall(r'`([\w./\-]+)`', text) if path.startswith(folders)}
    assert len(named) > 10
    invented = {'detkit/models/dense_heads/my_head.py'}
    assert sorted(path for path in named - invented if not (ROOT / path).exists()) == []


def test_shipped_recipes_are_where_configs_are_looked_for():
    assert config_folder() == ROOT / 'configs'


def test_the_head_that_is_added_takes_fewer_than_100_lines():
    head, = [body for _, body, _ in blocks('python') if 'class PlainHead' in body]
    assert head.count('\n') < 100
