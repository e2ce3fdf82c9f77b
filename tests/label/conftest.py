from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from label.server import BUNDLES, Server, command, run, running
from nibabel.processing import resample_from_to
from releases import OVERLAYS, trained
from tiny import BRATS

from dcd_components.bundle.configs import bundle_settings
from dcd_components.bundle.release.packing import pack
from dcd_components.data.case_files import make_layout

#: A case of each bundle whose sequences share a grid, so that it can be one 4D file too, and lie otherwise than in RAS.
SHARED = {"brats_gli_dcd": "BraTS-GLI-09999-000", "isles22_dcd": "sub-strokecase9999_ses-0001"}
WHOLE = {"brats_gli_dcd": "glioma", "isles22_dcd": "stroke"}


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles, packed and unpacked, the first with its teacher, and MONAI Label's app with links to them."""
    folder = tmp_path_factory.mktemp("releases")
    for source in BUNDLES.values():
        bundle = trained(source, tmp_path_factory.mktemp("bundles"))
        zipfile.ZipFile(pack(bundle, folder, overlays=OVERLAYS, teacher=source == BRATS)).extractall(folder)
    config = folder / BRATS.name / "configs" / "train.json"
    weight = {"_target_": "dcd_components.constant", "maximum": 0.3}
    early = {**json.loads(config.read_text()), "distillation_weight": weight}
    config.write_text(json.dumps(early))
    run(command(BRATS.name, "apps --download"), folder / BRATS.name)
    for name in BUNDLES:
        run(command(name, "mkdir"), folder / name)
        run(command(name, "ln -s"), folder / name)
    return folder


@pytest.fixture(scope="session")
def cases(patients: Path, strokes: Path, hippocampi: Path) -> dict[str, dict[str, dict[str, Path]]]:
    """Files of four phantoms for each bundle, by case and sequence, and their label."""
    found: dict[str, dict[str, dict[str, Path]]] = {}
    for (name, bundle), data in zip(BUNDLES.items(), (patients, strokes, hippocampi), strict=True):
        layout = make_layout(bundle_settings(bundle))
        listed = json.loads((data / "datalist.json").read_text())["training"][:4]
        found[name] = {}
        for one in listed:
            paths = [data / path for path in (*one["image"], one["label"])]
            found[name][one["case"]] = dict(zip([*layout.sequences, "label"], paths, strict=True))
    return found


@pytest.fixture(scope="session")
def studies(cases: dict[str, dict[str, dict[str, Path]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One flat folder, as the page says: a file for each sequence; a case of several sequences as a 4D file too."""
    folder = tmp_path_factory.mktemp("studies")
    for name, several in cases.items():
        for files in several.values():
            for sequence, path in files.items():
                if sequence != "label":
                    shutil.copy(path, folder)
        if name not in SHARED:
            continue
        case, files = next(iter(several.items()))
        reference = nibabel.load(files[make_layout(bundle_settings(BUNDLES[name])).reference])
        shared = {
            path.name.replace(case, SHARED[name]): resample_from_to(nibabel.load(path), reference).slicer[::-1, 2:]
            for sequence, path in files.items()
            if sequence != "label"
        }
        for file, image in shared.items():
            nibabel.save(image, folder / file)
        first = next(iter(shared.values()))
        channels = np.stack([np.asarray(image.dataobj) for image in shared.values()], axis=-1)
        nibabel.save(nibabel.Nifti1Image(channels, first.affine), folder / f"{WHOLE[name]}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def server(releases: Path, studies: Path) -> Iterator[Server]:
    """MONAI Label's server with the bundles, without a way to dcd_components but the packed one."""
    line = command(BRATS.name, "start_server").replace("STUDIES", str(studies))
    with running(line.replace(f"models {BRATS.name}", f"models {','.join(BUNDLES)}"), releases) as server:
        yield server
