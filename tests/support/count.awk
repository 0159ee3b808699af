# SPDX-License-Identifier: Apache-2.0
# Reads `ctest -V` of tests run with CRITERION_VERBOSITY_LEVEL=1 and prints "passed failed skipped".
# A Criterion executable counts test by test, any other as one. A test that ctest calls failed
# although no line of it says so (a leak, a time-out) counts as one failure. Reasons for skipping
# go to the file named by -v reasons=FILE.

match($0, /^[0-9]+: /) {
    id = substr($0, 1, RLENGTH - 2)
    line = substr($0, RLENGTH + 1)
    if (line ~ /^\[PASS\]/) pass[id]++
    else if (line ~ /^\[FAIL\]/) fail[id]++
    else if (line ~ /^\[SKIP\]/) { skip[id]++; print substr(line, 8) > reasons }
    else if (tolower(line) ~ /^skip(ped)?:/) why[id] = line
    next
}

match($0, /Test +#[0-9]+: /) {
    id = substr($0, RSTART, RLENGTH)
    gsub(/[^0-9]/, "", id)
    name = $0
    sub(/.*Test +#[0-9]+: /, "", name)
    sub(/ .*/, "", name)
    passed += pass[id]; failed += fail[id]; skipped += skip[id]
    if ($0 ~ /\*\*\*Skipped|\*\*\*Not Run \(Disabled\)/) {
        skipped++
        print name ": " (id in why ? why[id] : "skipped") > reasons
    } else if ($0 ~ / Passed /) {
        if (!pass[id] && !fail[id] && !skip[id]) passed++
    } else if (!fail[id]) {
        failed++
    }
}

END { print passed + 0, failed + 0, skipped + 0 }
