"""What holds for every file that git tracks, and for the numbers that several files repeat."""
from __future__ import annotations

import configparser
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

import detkit

ROOT = Path(__file__).resolve().parents[2]
TEXT = {'.py', '.md', '.cfg', '.toml', '.json', '.ipynb', '.txt', '.in', '.yml', '.yaml', ''}
MACHINE_PATH = re.compile(r'(?<![\w.\-/:$}{])/(?:work|root|home|Users|farm)/(?!someone\b)\w')
UNFINISHED = re.compile('|'.join((r'\bTO' r'DO\b', r'\bFIX' r'ME\b', r'\bX' r'XX\b', r'\bHA' r'CK\b')))


def tracked() -> list[Path]:
    listing = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip('not a git checkout')
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def lines() -> list[tuple[str, str]]:
    """(file:line, text) of every tracked text file."""
    found = []
    for path in tracked():
        if path.suffix in TEXT and path.name != 'LICENSE':
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
                found.append((f'{path.relative_to(ROOT)}:{number}', line))
    return found


def test_no_file_names_a_path_of_somebodys_machine():
    assert [where for where, line in lines() if MACHINE_PATH.search(line)] == []


def test_the_search_for_paths_finds_some_and_spares_urls():
    assert MACHINE_PATH.search('see /ho' 'me/me/x') and MACHINE_PATH.search("'/wo" "rk/main'")
    assert not MACHINE_PATH.search('https://example.org/ho' 'me/page') and not MACHINE_PATH.search('data/wo' 'rk/x')


def test_nothing_is_marked_unfinished():
    assert [where for where, line in lines() if UNFINISHED.search(line)] == []


def test_no_file_is_large():
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1_000_000] == []


def test_source_files_are_rooms_and_not_houses():
    long = {str(path.relative_to(ROOT)): n for path in tracked() if path.suffix == '.py' and 'tests' not in path.parts
            and (n := len(path.read_text(encoding='utf-8').splitlines())) > 600}
    assert long == {}


def test_the_licence_is_apache_2():
    text = (ROOT / 'LICENSE').read_bytes()
    assert hashlib.sha256(text).hexdigest() == 'cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30'   # apache.org's own file


def requirements() -> dict[str, str]:
    """Package -> range, of all that setup.cfg asks for."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / 'setup.cfg')
    text = '\n'.join([setup['options']['install_requires'], *setup['options.extras_require'].values()])
    asked = [line.split('#')[0].strip() for line in text.splitlines()]
    return dict(line.split(' ', 1) for line in asked if line and not line.startswith('detkit['))


def test_the_oldest_versions_that_are_tried_are_the_oldest_that_are_allowed():
    tried = dict(line.split('==') for line in (ROOT / '.ci/oldest.txt').read_text().splitlines() if '==' in line)
    asked = requirements()
    assert len(asked) > 15
    for name, allowed in asked.items():
        low = re.search(r'>=([\d.]+)', allowed)
        assert low, f'{name} has no lower end'
        if name in tried:
            assert (tried[name] + '.0').startswith(low[1] + '.'), f'{name}: {low[1]} is allowed, {tried[name]} is tried'


def test_the_changelog_speaks_of_this_version():
    assert f'## {detkit.__version__}' in (ROOT / 'CHANGELOG.md').read_text()


def test_the_zoo_names_configs_that_exist():
    for entry in json.loads((ROOT / 'model_zoo.json').read_text())['models']:
        assert (ROOT / 'configs' / entry['config']).is_file()
