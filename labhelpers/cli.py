"""The command line: `labhelpers train fcn8s`, `labhelpers report`, ... Each command is a few calls of the library.

Nothing heavy is imported before a command runs, so that help appears at once; the help of a command is the docstring of
its function. Exit codes: 0 done, 1 an error that one line on stderr explains, 2 a command that argparse does not
understand.
"""

import argparse
import inspect
import os
import sys
from pathlib import Path

from labhelpers import __version__, config

MAIN = """\
Segmentation Labs: what the notebooks do, as commands.

  labhelpers doctor               is this machine ready, and how long will each lab take?
  labhelpers data                 which data are here; fetches or makes them
  labhelpers train fcn8s          trains a network as its lab does, or loads what was trained
  labhelpers evaluate fcn8s       scores it and adds its row to the results table
  labhelpers demo                 a page in the browser: click on a picture, see the mask
  labhelpers report               a PDF and a web page about everything trained so far
  labhelpers submit --lastname Doe --firstname Jane     the ZIP to hand in
  labhelpers course set-repository URL                  for instructors: a fork's own address
  labhelpers grade                for instructors: points, feedback and marks for what was handed in

Each command has its own help: labhelpers train --help
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    if options.profile:
        os.environ["LAB_PROFILE"] = options.profile
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as error:  # what the library raises, with a remedy in it
        print(f"labhelpers {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="labhelpers", description=MAIN, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"labhelpers {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of those above")
    add = {}
    for run in COMMANDS:
        command = commands.add_parser(run.__name__, description=inspect.getdoc(run), formatter_class=plain)
        command.add_argument(
            "--profile",
            choices=list(config.PROFILES),
            help="how much time it may take (default: LAB_PROFILE, else lab with a GPU and smoke without)",
        )
        command.set_defaults(run=run)
        add[run] = command.add_argument
    add[train]("name", metavar="NAME", help="which network")
    add[train]("--sync-batch-norm", action="store_true", help="on several GPUs: batch norm sees the whole batch")
    add[evaluate]("name", metavar="NAME", help="which network")
    add[demo]("--notebooks", type=Path, help="folder of demo_minisam.ipynb")
    add[data]("name", metavar="NAME", nargs="?", help="which data")
    add[report]("--out", type=Path, default=Path("report"), help="folder of the report (default: report)")
    add[submit]("--lastname", required=True)
    add[submit]("--firstname", required=True)
    add[submit](
        "--notebooks", type=Path, help="folder of your notebooks (default: this one if it holds labs, else notebooks)"
    )
    add[submit]("--report", type=Path, default=Path("report"), help="folder of the report (default: report)")
    add[submit]("--incomplete", action="store_true", help="write the ZIP even if something is missing or not right")
    add[submit]("--out", type=Path, default=Path("."), help="folder of the ZIP (default: here)")
    add[course]("task", choices=["set-repository"], metavar="TASK", help="set-repository")
    add[course]("address", metavar="URL", help="https://github.com/OWNER/NAME")
    add[grade]("--submitted", type=Path, default=Path("submitted"), help="what was handed in (default: submitted)")
    add[grade]("--notebooks", type=Path, help="the instructor's notebooks, with answers (default: notebooks)")
    add[grade]("--out", type=Path, default=Path("feedback"), help="feedback, points, marks (default: feedback)")
    add[grade]("--again", action="store_true", help="also what has not changed since it was graded")
    return parser


def train(options: argparse.Namespace) -> None:
    """Trains a network on the data and with the recipe of its lab, and keeps the weights of the best evaluation. What
    has been trained already, here or in the notebook, is loaded instead; an interrupted training continues.

      NAME is one of: fcn32s fcn16s fcn8s deeplabv3 deeplabv3plus unet unet_bilinear mini_sam mask_rcnn

    Needs: the data of the profile, which are fetched or made when they are missing (see labhelpers data).
    Takes: in the profile smoke half a minute on 2 CPU cores; in lab about 10 minutes on a T4 (an estimate).

      labhelpers train fcn8s
      labhelpers train deeplabv3plus --profile lab
      torchrun --nproc-per-node 2 -m labhelpers.cli train fcn8s      on two GPUs, see docs/instructors.md
    """
    from labhelpers.course import plans

    plans.train(options.name, options.sync_batch_norm)


def evaluate(options: argparse.Namespace) -> None:
    """Scores a trained network on the images that its lab reports on, prints the scores with the conditions under
    which they were measured, and adds a row to the results table in the checkpoints' folder. Mini-SAM is scored by
    prompts, Mask R-CNN by the average precision of its objects.

      NAME is one of: fcn32s fcn16s fcn8s deeplabv3 deeplabv3plus unet unet_bilinear mini_sam mask_rcnn

    Needs: labhelpers train NAME, or the notebook, before.
    Takes: seconds on a CPU in the profile smoke, about 3 minutes on a T4 in lab (an estimate).

      labhelpers evaluate fcn8s
    """
    from labhelpers.course.plans import Experiment

    experiment = Experiment.open(options.name, config.profile())
    run = experiment.require()
    print(f"{experiment.plan.title}: {run}")
    model = experiment.load(run)
    if experiment.plan.prompted:
        print(experiment.prompt_scores(model).table().to_markdown())
    else:
        table = experiment.add_to_table(run, model)
        print(f"{table.to_markdown()}\n{table.path}")
    if not experiment.profile.learns:
        print("The profile tiny, or LAB_STEPS, leaves a handful of steps: this is not a result, and it is not stored.")


def demo(options: argparse.Namespace) -> int:
    """Opens the demo as a page on this machine (nobody else can reach it): click on a picture, and Mini-SAM marks what
    you clicked on. Ctrl-C ends it.

    Needs: the notebook demo_minisam.ipynb and voila, which the extra "course" installs. No training, no network.
    Takes: 10 seconds to start.

      labhelpers demo
    """
    from labhelpers.course.run import serve_demo

    return serve_demo(options.notebooks)


def data(options: argparse.Namespace) -> None:
    """Without a NAME: says which data are here, and how large they are.
    With one: fetches or makes them.

    NAME is one of:
      course   what the labs work on in this profile: the synthetic scenes, or PASCAL VOC 2012
      scenes   synthetic scenes in VOC layout (made in seconds)
      jigsaw   the ten pictures of lab 04 (made in seconds)
      voc      PASCAL VOC 2012 (2 GB over the network, 0.3 GB of which are kept)
      sbd      the extra label maps of SBD for VOC (1.4 GB over the network)

    labhelpers data
    labhelpers data voc
    """
    from labhelpers.course import doctor

    if options.name is None:
        print(doctor.inventory(config.profile()))
    else:
        doctor.provide(options.name, config.profile())


def doctor(options: argparse.Namespace) -> None:
    """Looks at this machine before anything is downloaded: Python and library versions, GPU, cores, memory, disk,
    network, Jupyter and the demo, and how many minutes each lab takes in each profile. Changes nothing.

    Takes: about 5 seconds.

      labhelpers doctor
    """
    from labhelpers.course.doctor import examine

    print(examine())


def report(options: argparse.Namespace) -> None:
    """Writes report.pdf (3 to 5 pages) and report.html from what is on the disk: architectures, training curves,
    results, pictures, discussion, challenges, improvements. Every number comes from a run; nothing is trained.

    Your own sentences go into report.md in the same folder, which the first call creates: fill in its three sections
    and call again.

    Needs: at least one network trained, by a notebook or by labhelpers train.
    Takes: half a minute.

      labhelpers report
      labhelpers report --out my_report
    """
    from labhelpers.course.report import write_report

    print(write_report(options.out, config.profile()))


def submit(options: argparse.Namespace) -> int:
    """Packs what the course asks for into lab05_LASTNAME_FIRSTNAME.zip: your implementations, gathered from the
    notebooks' exercises into lab05_student.py; train_fcn.py, train_deeplab.py, train_minisam.py; the notebooks; the
    best FCN-8s, DeepLabV3+ and Mini-SAM weights; the logs; the report. Names are written in lower case without accents.

    It first runs and checks your answers, and lists each exercise as answered, failing its check, unanswered or
    missing, then what else is there or missing, with what to do about it. If something is missing or not right yet, no
    ZIP is written. A cell or a check is stopped after 2 minutes.

    Needs: the notebooks with your answers, the three networks trained, labhelpers report.
    Takes: half a minute.

      labhelpers submit --lastname Doe --firstname Jane
      labhelpers submit --lastname Doe --firstname Jane --incomplete      hand in what there is
    """
    from labhelpers.course.submit import collect, write_zip

    contents = collect(options.notebooks, options.report, config.profile())
    print(contents)
    if contents.missing and not options.incomplete:
        print(
            f"labhelpers submit: {len(contents.missing)} missing or not right yet, so no ZIP was written "
            "(--incomplete writes it)",
            file=sys.stderr,
        )
        return 1
    print(write_zip(contents, options.out, options.lastname, options.firstname))
    return 0


def course(options: argparse.Namespace) -> None:
    """For instructors. set-repository gives a fork its own address, everywhere: in pyproject.toml, in the first cell of
    the notebooks, which installs labhelpers from there, in badges and links. Commit what it changes.

    Needs: a checkout.
    Takes: a second.

      labhelpers course set-repository https://github.com/OWNER/NAME
    """
    from labhelpers.course.release import ROOT, set_repository

    changed = set_repository(options.address, ROOT)
    print(*changed, f"{len(changed)} files changed; student versions: make release", sep="\n")


def grade(options: argparse.Namespace) -> None:
    """Grades what students handed in, for instructors: submitted/NAME/*.ipynb, or the ZIPs of labhelpers submit. Writes
    feedback/NAME/*.html, feedback/points.csv and feedback/marks.csv; written answers wait for a person, and what that
    person gives is kept. docs/grading.md says what submitted code can do while it runs, and what it cannot.

    Needs: the extra "course", and the notebooks with answers and hidden tests.
    Takes: about 10 seconds for a notebook of a student on one CPU core; what has not changed is not graded again.

      labhelpers grade
      labhelpers grade --submitted handed_in --out graded
    """
    from labhelpers.course.grade import grade as run
    from labhelpers.course.run import notebooks_folder

    run(options.submitted, notebooks_folder(options.notebooks), options.out, options.again)


COMMANDS = (train, evaluate, demo, data, doctor, report, submit, grade, course)

if __name__ == "__main__":  # `accelerate launch -m labhelpers.cli`, `torchrun -m labhelpers.cli`
    sys.exit(main())
