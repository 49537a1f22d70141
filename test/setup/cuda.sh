#!/bin/bash
# Prints a CUDA home, which has bin/nvcc and a static runtime: the one at hand, else one made in build/cuda from NVIDIA's wheels on
# PyPI (some 100 MB fetched, 270 MB on disk; no driver and no GPU is needed to build).  cuda.sh --fetch makes build/cuda in any case.
. "$(dirname "$0")/lib.sh"
become_owner "$@"

VERSION='13.0.*' # what a driver since 580 runs
WHEELS=(nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-runtime nvidia-cuda-cccl)

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

if [ "${1:-}" != --fetch ] && at_hand; then exit 0; fi

[ "$(uname -m)" = x86_64 ] || die "NVIDIA's wheels are used for x86_64 only" "install CUDA and set CUDA_HOME"
python3 -m pip --version > /dev/null 2>&1 || die "python3 has no pip" "apt-get install python3-pip"
folder=$BUILD/cuda
rm -rf "$folder"
mkdir -p "$folder/wheels"
python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --platform manylinux_2_17_x86_64 \
    --platform manylinux_2_12_x86_64 --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 \
    -d "$folder/wheels" "${WHEELS[@]/%/==$VERSION}" >&2
python3 - "$folder" << 'PYTHON'
import glob, os, sys, zipfile
folder = sys.argv[1]
inside = 'nvidia/cu13/'
for path in glob.glob(folder + '/wheels/*.whl'):
    with zipfile.ZipFile(path) as wheel:
        for entry in wheel.infolist():
            if entry.is_dir() or not entry.filename.startswith(inside):
                continue
            target = os.path.join(folder, entry.filename[len(inside):])
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, 'wb') as out:
                out.write(wheel.read(entry))
            program = '/bin/' in '/' + entry.filename[len(inside):]
            os.chmod(target, 0o755 if program else 0o644)
PYTHON
rm -rf "$folder/wheels"
[ -e "$folder/lib64" ] || ln -s lib "$folder/lib64" # where nvcc looks
usable_home "$folder" loud || die "the compiler from NVIDIA's wheels does not work"
echo "$folder"
