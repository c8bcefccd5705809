"""The command line ``detkit COMMAND ...``, also called by ``tools/*.py``.

Arguments are parsed before slow imports, so that ``--help`` is fast. A command has three parts: an entry in COMMANDS, a function
that adds its arguments, and a function that runs it and returns the exit status. The commands for datasets are in
detkit.cli_data.
"""
from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from textwrap import dedent
from typing import NoReturn

from detkit.cli_data import DATA_COMMANDS, Command, add_config, add_options
from detkit.signals import handle_stop_signals, ignore_stop_signals, kill_workers, raise_stopped

PACKAGE = os.path.dirname(os.path.abspath(__file__))
BLAMELESS = (ValueError, OSError, ImportError)   # detkit raises these for user errors; raised by other code, they are bugs


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (default: the process's arguments) and return the exit status.

    0 for success; 1 for a failed run (a loss that is not finite); 2 for a user error; 128 + the signal after a stop signal
    (130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1, 129 for SIGHUP).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with handle_stop_signals(raise_stopped):
        try:
            args = with_home(parser(argv).parse_args(argv))
            return COMMANDS[args.command].run(args) or 0
        except BrokenPipeError:                        # ``detkit print-config X | head``
            sys.stdout = None
            return 0
        except (Exception, KeyboardInterrupt) as error:
            ignore_stop_signals()                      # the process is ending; the block's end restores the earlier handlers
            status = exit_status(error)
            if status is None or os.environ.get('DETKIT_TRACEBACK') == '1':
                raise
            kind = 'error: ' if status < 128 else ''   # a stop by a signal is not an error
            with suppress(OSError):                    # the terminal may be closed
                print(f'detkit: {kind}{message(error)}', file=sys.stderr)
            return status


def with_home(args: argparse.Namespace) -> argparse.Namespace:
    """Expand a leading ``~`` in ``args``; shells do not expand it in ``--out=~/a``, and lists in notebooks have no shell."""
    for key, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, key, os.path.expanduser(value))
        elif isinstance(value, list):
            setattr(args, key, [os.path.expanduser(v) if isinstance(v, str) else v for v in value])
    return args


def leave(status: int) -> NoReturn:
    """Exit the process with ``status``.

    In distributed training, exit without Python's own cleanup: there, a thread of torch's process group sometimes aborts the process
    (gloo, torch 2.11 to 2.15), and torchrun then reports a finished run as failed.
    """
    ignore_stop_signals()
    distributed = sys.modules.get('torch.distributed')
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        if status == 0:
            distributed.destroy_process_group()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        kill_workers()
        os._exit(status)
    sys.exit(status)


def run_tool(command: str) -> None:
    """Run a command; the whole content of ``tools/X.py``."""
    leave(main([command, *sys.argv[1:]]))


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser; arguments are added only to the command that ``argv`` names."""
    top = argparse.ArgumentParser(prog='detkit', description='Train, test and use object detectors.',
                                  epilog="'detkit COMMAND --help' explains a command. DETKIT_TRACEBACK=1 shows where errors come from. "
                                         'Exit status: 0; '
                                         '1 a run that failed; 2 a mistake in config, data or arguments; 130, 143, 138, 129 stopped by '
                                         'SIGINT, SIGTERM, SIGUSR1, SIGHUP (a training has saved then, and --resume goes on).')
    top.add_argument('--version', action='version', version=version())
    commands = top.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, command in COMMANDS.items():
        epilog = f'example:\n{dedent(command.example).strip()}' if command.example else None
        sub = commands.add_parser(name, help=command.help, description=command.help, epilog=epilog,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in argv:
            command.arguments(sub)
    return top


def version() -> str:
    from detkit import __version__
    return f'detkit {__version__}'


# ------------------------------------------------------------------------------------------------------------ errors
def exit_status(error: BaseException) -> int | None:
    """Return the exit status for ``error``, or None if it is a bug, whose traceback should be shown."""
    status = getattr(error, 'exit_status', None)
    if status is not None:
        return status
    if isinstance(error, KeyboardInterrupt):           # raised outside of the main thread's handlers
        return 130
    if type(error).__name__ == 'ConfigError' or (isinstance(error, OSError) and error.errno is not None):
        return 2
    return 2 if isinstance(error, BLAMELESS) and raised_here(error) else None


def raised_here(error: BaseException) -> bool:
    """Return whether detkit itself raised ``error``, in this process or in a data loader's worker."""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [line.split('"')[1] for line in str(error).splitlines() if line.lstrip().startswith('File "')]
    last = inner[-1] if inner and in_worker(error) else frames[-1].filename if frames else ''
    return os.path.abspath(last).startswith(PACKAGE + os.sep)


def in_worker(error: BaseException) -> bool:
    return str(error).startswith('Caught ') and 'DataLoader worker process' in str(error).split('\n', 1)[0]


def message(error: BaseException) -> str:
    """Return the message for the user, without the traceback that the text of a worker's error contains."""
    text = str(error) or ('stopped' if isinstance(error, KeyboardInterrupt) else type(error).__name__)
    if in_worker(error):
        name = f'{type(error).__name__}: '
        text = text[text.rindex(name) + len(name):] if name in text else text.strip().splitlines()[-1]
    if isinstance(error, OSError) and error.filename is not None:
        text = f'{error.filename}: {error.strerror}'
    return ' '.join(text.split())


# ------------------------------------------------------------------------------------------------- shared arguments
def add_launcher(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                     help="how several processes are started; 'pytorch' is torchrun (default: none)")
    sub.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)   # older launchers pass this argument


def add_trust(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--trust-checkpoint', action='store_true',
                     help='load checkpoints with the ordinary unpickler, which runs code that a file holds; only for files you made')


# ------------------------------------------------------------------------------------------------------------- train
def train_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('--work-dir', metavar='DIR', help='where logs and checkpoints go (default: work_dirs/CONFIG)')
    sub.add_argument('--amp', action='store_true', help='mixed precision: bfloat16 on the CPU, float16 on CUDA unless the config says')
    sub.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                     help='go on from CHECKPOINT, or without one from the newest in the work dir')
    sub.add_argument('--fresh', action='store_true', help='remove the checkpoints of a run that the work dir holds, and start again')
    sub.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate from the base batch size of the config')
    sub.add_argument('--seed', type=int,
                     help='random seed of weights, data order and augmentation (default: a random one, which the log names)')
    add_options(sub)
    add_launcher(sub)
    add_trust(sub)


def train(args: argparse.Namespace) -> int:
    from detkit.config import load_config
    cfg = load_config(args.config, args.cfg_options)
    from detkit.engine import train as run
    run(cfg, work_dir=args.work_dir, amp=True if args.amp else None, resume=args.resume, auto_scale_lr=args.auto_scale_lr,
        seed=args.seed, launcher=args.launcher, trusted=args.trust_checkpoint, fresh=args.fresh)
    return 0


# -------------------------------------------------------------------------------------------------------------- test
def test_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('checkpoint', metavar='CHECKPOINT', help='weights: a file or a URL')
    sub.add_argument('--work-dir', metavar='DIR', help='where the log and the metrics go (default: work_dirs/CONFIG)')
    sub.add_argument('--out', metavar='FILE', help='write the detections: .json, or .pkl as MMDetection does')
    sub.add_argument('--show', action='store_true', help='show each picture with its detections in a window')
    sub.add_argument('--show-dir', metavar='DIR', help='save pictures of ground truth beside detections here')
    sub.add_argument('--wait-time', type=float, default=2, metavar='SECONDS', help='how long --show shows each (default: 2)')
    sub.add_argument('--tta', action='store_true', help="test-time augmentation: the config's tta_model, or left-right flips")
    add_options(sub)
    add_launcher(sub)
    add_trust(sub)


def test(args: argparse.Namespace) -> int:
    from detkit.config import load_config
    cfg = load_config(args.config, args.cfg_options)
    from detkit.engine import evaluate
    evaluate(cfg, args.checkpoint, work_dir=args.work_dir, show_dir=args.show_dir, out=args.out, tta=args.tta, show=args.show,
             wait_time=args.wait_time, launcher=args.launcher, trusted=args.trust_checkpoint)
    return 0


# ------------------------------------------------------------------------------------------------------ print-config
def print_config_arguments(sub: argparse.ArgumentParser) -> None:
    add_config(sub)
    sub.add_argument('--save-path', metavar='FILE', help='write the whole config there (.py, .json, .yaml) instead of printing it')
    add_options(sub)


def print_config(args: argparse.Namespace) -> int:
    from detkit.config import dump_config, load_config
    cfg = load_config(args.config, args.cfg_options)
    if args.save_path:
        dump_config(cfg, args.save_path)
    else:
        print(cfg.pretty_text)
    return 0


# ------------------------------------------------------------------------------------------------------------ compat
def compat_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('sources', nargs='+', metavar='CONFIGS', help="folder of configs, config file, 'mmdet::' or 'mmdet::retinanet' of an "
                                                                   'installed MMDetection, or the name of a shipped config')
    sub.add_argument('--family', nargs='+', default=[], metavar='NAME', help='look at these folders only')
    sub.add_argument('--json', metavar='FILE', help='also write the result for each config there')
    sub.add_argument('--verbose', action='store_true', help='a line for each config, all names, and the way to each failure')


def compat(args: argparse.Namespace) -> int:
    from detkit.compat import report
    return report(args.sources, args.family, args.json, args.verbose)


# ------------------------------------------------------------------------------------------------------------- infer
def infer_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('input', metavar='INPUT', help="image, video, folder (with its subfolders), or glob such as 'day*/*.jpg'")
    sub.add_argument('config', metavar='CONFIG_OR_NAME',
                     help='config file, name of a shipped config or of a model in model_zoo.json, or a checkpoint that '
                          'carries its config')
    sub.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', help='weights; a model of the zoo brings its own')
    sub.add_argument('--out-dir', metavar='DIR', default='outputs',
                     help='folder for vis/NAME of each picture or video, and results.json (default: outputs)')
    sub.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                     help='leave out objects with a lower score, from 0 to 1 (default: 0.3)')
    sub.add_argument('--batch-size', type=int, default=1, metavar='N', help='images at a time (default: 1)')
    sub.add_argument('--device', metavar='DEVICE', help='cpu, cuda, cuda:1, ... (default: the GPU if there is one)')
    sub.add_argument('--precision', choices=['fp32', 'bf16', 'fp16', 'auto'], default='fp32',
                     help='bf16 is about twice as fast on a CPU or GPU that has it; fp16 needs a GPU; auto: bf16 where it '
                          'is faster (default: fp32)')
    sub.add_argument('--no-pictures', action='store_true', help='write results.json only')
    sub.add_argument('--on-unreadable', choices=['skip', 'fail'], default='skip',
                     help='skip files that cannot be read and list them, or fail at the first (default: skip)')
    sub.add_argument('--no-progress', action='store_true', help='no progress bar')
    add_options(sub)
    add_trust(sub)


def infer(args: argparse.Namespace) -> int:
    from detkit.files import check_out_dir
    from detkit.inference.sources import list_sources
    check_out_dir(args.out_dir)
    list_sources(args.input, exclude=args.out_dir)      # check the input before the slow imports
    from detkit.inference import infer_files, load_inferencer
    inferencer = load_inferencer(args.config, args.checkpoint, device=args.device, precision=args.precision,
                                 cfg_options=args.cfg_options, trusted=args.trust_checkpoint,
                                 show_progress=not args.no_progress)
    done = infer_files(inferencer, args.input, args.out_dir, args.score_thr, args.batch_size, not args.no_pictures,
                       args.on_unreadable)
    print(done)
    return 0


# ------------------------------------------------------------------------------------------------------- collect-env
def collect_env_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--json', action='store_true', help='print as JSON')


def collect_env(args: argparse.Namespace) -> int:
    from detkit.environment import collect_env as facts
    from detkit.environment import report
    if args.json:
        import json
        print(json.dumps(facts(), indent=1))
    else:
        print(report())
    return 0


# -------------------------------------------------------------------------------------------------------- quickstart
def quickstart_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--data-dir', metavar='DIR', help='folder of the drawn images (default: shapes in $DETKIT_DATA_ROOT, or data/shapes)')
    sub.add_argument('--work-dir', metavar='DIR', default='work_dirs/quickstart', help='folder for logs, checkpoints and pictures '
                                                                                       '(default: work_dirs/quickstart)')
    sub.add_argument('--num-train', type=int, default=1000, metavar='N', help='training images (default: 1000)')
    sub.add_argument('--num-val', type=int, default=100, metavar='N', help='validation images (default: 100)')
    sub.add_argument('--epochs', type=int, metavar='N', help="epochs to train (default: the recipe's)")
    sub.add_argument('--pictures', type=int, default=8, metavar='N', help='validation images to draw (default: 8)')
    sub.add_argument('--seed', type=int, default=0, help='random seed of weights, data order and augmentation (default: 0)')
    sub.add_argument('--fresh', action='store_true', help='remove the checkpoints of a run that the work dir holds, and train again')


def quickstart(args: argparse.Namespace) -> int:
    from detkit.quickstart import quickstart as run
    print(run(args.data_dir, args.work_dir, args.num_train, args.num_val, args.epochs, args.pictures, args.seed, args.fresh))
    return 0


COMMANDS: dict[str, Command] = {
    'quickstart': Command('Make a small data set, train a detector on it, show what it finds: a few minutes on a CPU.',
                          quickstart_arguments, quickstart, '''
        detkit quickstart
        detkit quickstart --num-train 48 --num-val 12 --epochs 2 --data-dir data/shapes_small --work-dir work_dirs/look'''),
    'train': Command('Train the detector that a config describes.', train_arguments, train, '''
        detkit train rtmdet_nano_bccd --cfg-options data_root=data/bccd/
        detkit train configs/retinanet/retinanet_r18_fpn_1x_coco.py --work-dir runs/a --amp --seed 0
        detkit train configs/retinanet/retinanet_r18_fpn_1x_coco.py --work-dir runs/a --resume
        torchrun --nproc-per-node 2 tools/train.py configs/retinanet/retinanet_r18_fpn_1x_coco.py --launcher pytorch'''),
    'test': Command("Measure a checkpoint on the config's test set.", test_arguments, test, '''
        detkit test rtmdet_nano_bccd work_dirs/rtmdet_nano_bccd/epoch_100.pth --show-dir pictures --out detections.json'''),
    'print-config': Command('Print a config with its bases and overrides merged.', print_config_arguments, print_config, '''
        detkit print-config rtmdet_tiny_8xb32-300e_coco --cfg-options max_epochs=20'''),
    'compat': Command("Build every config of a folder and compare its state-dict keys with MMDetection's; status 1 when one fails.",
                      compat_arguments, compat, '''
        detkit compat my_configs
        detkit compat mmdet:: --family retinanet faster_rcnn --json found.json
        detkit compat my_configs/mine.py --verbose'''),
    'infer': Command('Detect objects in images or videos: annotated pictures and a JSON of results.', infer_arguments, infer, '''
        detkit infer photo.jpg rtmdet_nano_bccd work_dirs/rtmdet_nano_bccd/epoch_100.pth
        detkit infer 'day*/*.jpg' my_config.py best.pth --out-dir found --score-thr 0.5 --batch-size 8
        detkit infer clip.mp4 my_config.py best.pth --precision bf16'''),
    **DATA_COMMANDS,
    'collect-env': Command('Print what a bug report should say of this machine and its packages.', collect_env_arguments,
                           collect_env),
}

if __name__ == '__main__':
    leave(main())
