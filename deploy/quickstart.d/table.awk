# SPDX-License-Identifier: Apache-2.0
# Reads baseline-N.json (one array a file) and run-N.json (one run a file) and prints the table of
# means: `alone` over hospitals and splits, `federated` and `pooled` over splits.
function number(text, name,    rest) {
    if (!match(text, "\"" name "\": *-?[0-9.]+(e-?[0-9]+)?"))
        return ""
    rest = substr(text, RSTART, RLENGTH)
    sub(/^.*: */, "", rest)
    return rest + 0
}
function add(row, text) {
    n[row]++
    accuracy[row] += number(text, "accuracy")
    auc[row] += number(text, "auc")
    loss[row] += number(text, "loss")
}
function show(row) {
    printf "%-11s   %8.4f   %6.4f   %6.4f\n", row, accuracy[row] / n[row], auc[row] / n[row], \
        loss[row] / n[row]
}
FILENAME ~ /baseline/ {
    items = split($0, item, "}")
    for (i = 1; i <= items; i++)
        if (item[i] ~ /"name": *"pooled"/) {
            add("pooled", item[i])
        } else if (match(item[i], /"name": *"[^"]*/)) {
            hospital = substr(item[i], RSTART, RLENGTH)
            sub(/^.*"/, "", hospital)
            sub(/\.csv$/, "", hospital)
            if (!(hospital in n))
                hospitals[++count] = hospital
            add(hospital, item[i])
            add("alone", item[i])
        }
}
FILENAME ~ /run-/ { run[FILENAME] = run[FILENAME] $0 }
END {
    for (file in run) {
        # The last model's metrics stand last, behind those of every round.
        items = split(run[file], item, "\"metrics\"")
        while (items > 1 && item[items] !~ /"accuracy"/)
            items--
        add("federated", item[items])
    }
    printf "%-11s   %8s   %6s   %6s\n", "", "accuracy", "AUC", "loss"
    print "------------------------------------------"
    rows = split("alone federated pooled", order, " ")
    for (i = 1; i <= rows; i++)
        show(order[i])
    print "------------------------------------------"
    print "each hospital alone:"
    for (i = 1; i <= count; i++)
        show(hospitals[i])
}
