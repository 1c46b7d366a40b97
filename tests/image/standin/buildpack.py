"""repo2docker's buildpack for conda, with the one step replaced that needs conda's servers.

Everything else is repo2docker's: the Dockerfile, apt.txt, the order of the layers, postBuild, start, labels, the entry point.
"""

from pathlib import Path

from repo2docker.buildpacks import CondaBuildPack

HERE = Path(__file__).parent


class StandInBuildPack(CondaBuildPack):
    """Lays a virtual environment where conda's would lie."""

    def get_build_script_files(self):
        files = dict(super().get_build_script_files())
        real = [source for source, place in files.items() if place in ("/tmp/install-base-env.bash", "/etc/profile.d/activate-conda.sh")]
        assert len(real) == 2, f"repo2docker has changed what it copies into the image: {sorted(files)}"
        for source in real:
            del files[source]
        return {
            **files,
            str(HERE / "install-base-env.bash"): "/tmp/install-base-env.bash",
            str(HERE / "activate-conda.sh"): "/etc/profile.d/activate-conda.sh",
            str(HERE / "base.py"): "/tmp/env/standin-base.py",
            str(HERE / "mamba"): "/tmp/standin-mamba",
        }
