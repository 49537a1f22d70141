#!/bin/bash
# Prints a CUDA home, which has bin/nvcc and a static runtime: the one at hand, else one made in build/cuda from NVIDIA's wheels on
# PyPI (some 100 MB fetched, 270 MB on disk; no driver and no GPU is needed to build).  cuda.sh --fetch: build/cuda, whatever is at hand.
. "$(dirname "$0")/lib.sh"
become_owner "$@"

# Release 13.0, which runs on drivers since 580: the compiler, its headers, its optimizer, the runtime, C++ for kernels.
WHEELS='
nvidia-cuda-nvcc==13.0.88    --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-crt==13.0.88     --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-nvvm==13.0.88         --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85    --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649'

# A compiler of CUDA 12 or newer that makes a program with a kernel in it, the runtime linked in.
usable_home() {
    local folder status=0
    [ -n "$1" ] && [ -x "$1/bin/nvcc" ] || return 1
    folder=$(mktemp -d)
    printf '%s\n' '#include <cuda_fp16.h>' '__global__ void kernel(__half *h) { h[threadIdx.x] = __float2half(1); }' \
        'int main() { kernel<<<1, 1>>>(nullptr); return 0; }' > "$folder/a.cu"
    "$1/bin/nvcc" -std=c++20 -arch=sm_90a -cudart static -o "$folder/a" "$folder/a.cu" > "$folder/log" 2>&1 || status=$?
    [ $status = 0 ] || [ "${2:-}" != loud ] || cat "$folder/log" >&2
    rm -rf "$folder"
    return $status
}

home_of() { dirname "$(dirname "$(readlink -f "$1")")"; }

at_hand() {
    local nvcc home
    for nvcc in "${CUDACXX:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc "$BUILD/cuda/bin/nvcc"; do
        [ -x "$nvcc" ] || continue
        home=$(home_of "$nvcc")
        if usable_home "$home"; then echo "$home"; return; fi
    done
    return 1
}

case ${1:-} in
    '') if at_hand; then exit 0; fi ;;
    --fetch) if usable_home "$BUILD/cuda"; then echo "$BUILD/cuda"; exit 0; fi ;;
    *) die "usage: cuda.sh [--fetch]" ;;
esac
[ "$(uname -m)" = x86_64 ] || die "NVIDIA's wheels are used for x86_64 only" "install CUDA and set CUDA_HOME"
python3 -m pip --version > /dev/null 2>&1 || die "python3 has no pip" "apt-get install python3-pip"
have g++ || die "nvcc needs g++" "apt-get install g++"
mkdir -p "$BUILD"
folder=$(mktemp -d "$BUILD/cuda.XXXXXX") # becomes build/cuda once it is whole
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/wheels"
printf '%s\n' "$WHEELS" > "$folder/wheels/list.txt"
python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --platform manylinux_2_17_x86_64 \
    --platform manylinux_2_12_x86_64 --require-hashes -d "$folder/wheels" -r "$folder/wheels/list.txt" >&2
python3 - "$folder" << 'PYTHON'
import glob, os, shutil, sys, zipfile
folder = sys.argv[1]
inside = 'nvidia/cu13/'
for path in glob.glob(folder + '/wheels/*.whl'):
    with zipfile.ZipFile(path) as wheel:
        for entry in wheel.infolist():
            if entry.is_dir() or not entry.filename.startswith(inside):
                continue
            name = entry.filename[len(inside):]
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with wheel.open(entry) as source, open(target, 'wb') as out:
                shutil.copyfileobj(source, out)
            os.chmod(target, 0o755 if name.startswith(('bin/', 'nvvm/bin/')) else 0o644)
PYTHON
rm -rf "$folder/wheels"
[ -e "$folder/lib64" ] || ln -s lib "$folder/lib64" # where nvcc looks
usable_home "$folder" loud || die "the compiler from NVIDIA's wheels does not work"
chmod 755 "$folder"
rm -rf "$BUILD/cuda"
mv "$folder" "$BUILD/cuda"
trap - EXIT
echo "$BUILD/cuda"
