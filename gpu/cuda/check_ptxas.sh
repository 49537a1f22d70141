#!/bin/sh
# Runs nvcc (with -Xptxas -v) and holds what ptxas reports of each kernel against a table:
# check_ptxas.sh strict|lenient LIMITS REPORT NVCC ARGUMENTS.
# Strict fails, and takes the object away, when a kernel spills registers or has locals in memory, uses more registers than its line
# of the table allows, or has no line; lenient says so and goes on.
# REPORT gets a line a kernel: architecture, name, registers, bytes of stack and of static shared memory.  Needs sh and awk only.
strictness=$1
limits=$2
report=$3
shift 3

object=
previous=
for argument; do
    [ "$previous" != -o ] || object=$argument
    previous=$argument
done

"$@" > "$report.log" 2>&1
status=$?
# What is not ptxas' report is shown: warnings and errors.
grep -v -e '^ptxas info' -e ' bytes stack frame, .* bytes spill ' -e '^[[:space:]]*$' "$report.log" >&2
[ $status = 0 ] || exit $status

# A mangled name ends in the lengths and names of what it is nested in: _ZN3vkv3gpu2cu6attendI...  The kernel's is the last of them.
awk -v limits="$limits" '
function name_of(mangled,   rest, length_, name) {
    if (mangled !~ /^_Z/) return mangled
    rest = substr(mangled, 3)
    sub(/^L?N/, "", rest)
    name = mangled
    while (match(rest, /^L?[0-9]+/)) {
        length_ = substr(rest, 1, RLENGTH)
        sub(/^L/, "", length_)
        name = substr(rest, RLENGTH + 1, length_ + 0)
        rest = substr(rest, RLENGTH + 1 + length_)
    }
    return name
}
function limit_of(name, architecture, mangled,   i) {
    for (i = 1; i <= rules; i++) {
        if (rule_name[i] != name || (rule_architecture[i] != "*" && rule_architecture[i] != architecture)) continue
        if (rule_part[i] == "" || index(mangled, rule_part[i])) return rule_limit[i]
    }
    return -1
}
function complain(text) {
    print "ptxas: " text > "/dev/stderr"
    failed = 1
}
BEGIN {
    while ((getline line < limits) > 0) {
        if (line ~ /^[ \t]*(#|$)/) continue
        fields = split(line, field, /[ \t]+/)
        rules++
        rule_name[rules] = field[1]
        rule_architecture[rules] = field[2]
        rule_limit[rules] = field[3] + 0
        rule_part[rules] = fields >= 4 ? field[4] : ""
    }
}
/Compiling entry function/ {
    split($0, quoted, "\047")
    kernel = quoted[2]
    architecture = quoted[4]
    kernels++
}
/bytes stack frame/ {
    stack = $1
    for (i = 1; i < NF; i++) if ($i == "bytes" && $(i + 1) == "spill") spills = spills + $(i - 1)
    if (stack + spills > 0) complain((kernel == "" ? "a function" : name_of(kernel)) " for " architecture " keeps locals in memory:" $0)
    spills = 0
}
/Used [0-9]+ registers/ {
    if (kernel == "") next
    name = name_of(kernel)
    for (i = 1; i <= NF; i++) if ($i == "Used") registers = $(i + 1) + 0
    shared = 0
    for (i = 2; i <= NF; i++) if ($i == "bytes" && $(i + 1) ~ /^smem/) shared = $(i - 1)
    limit = limit_of(name, architecture, kernel)
    if (limit < 0) complain(name " for " architecture " has no line in " limits ": it uses " registers " registers")
    else if (registers > limit) complain(name " for " architecture " uses " registers " registers, more than " limit ": " kernel)
    printf "%s %s %d registers, %d bytes stack, %d bytes shared %s\n", architecture, name, registers, stack, shared, kernel
    kernel = ""
}
END { exit failed }' "$report.log" > "$report"
status=$?
[ "$strictness" = strict ] || status=0
[ $status = 0 ] || rm -f "$object"
exit $status
