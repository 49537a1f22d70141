#!/bin/sh
# A helper that finds no GPU, or was built without CUDA, ends with status 4 and says why in one line: no_device_test.sh HELPER.
# The supervisor does not start it again then.
failed=0
for device in auto cuda cuda:1; do
    said=$(CUDA_VISIBLE_DEVICES='' timeout 20 "$1" --socket "${TMPDIR:-/tmp}/no_device.$$" --device $device 2>&1)
    status=$?
    lines=$(printf '%s\n' "$said" | wc -l)
    case $said in
        'error: no CUDA device'* | 'error: this program was built without CUDA') clear=1 ;;
        *) clear=0 ;;
    esac
    [ $status = 4 ] && [ "$lines" = 1 ] && [ $clear = 1 ] && continue
    echo "--device $device: status $status, $lines lines: $said"
    failed=1
done
exit $failed
