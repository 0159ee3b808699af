#!/usr/bin/awk -f
# SPDX-License-Identifier: Apache-2.0
# Deals the 569 patients of breast_cancer.csv to nine hospitals in three regions, unevenly:
#
#   awk -v out=FOLDER -f split.awk breast_cancer.csv
#
# writes FOLDER/REGION-N.csv (north, centre, south; 1 to 3). The table has no hospitals of its own, so
# these are made up: regions differ in a feature (tumour texture: a patient goes to the region of
# their third of it with probability 0.7), hospitals of a region in how many of their patients are ill
# (a cancer centre, a general hospital, a screening clinic). The same files come out of every awk:
# the generator is Lehmer's with 48271 modulo 2^31 - 1, exact in doubles.

function draw() {
    seed = (seed * 48271) % 2147483647
    return seed / 2147483647
}

BEGIN {
    FS = ","
    seed = 20240303
    for (i = 0; i < 100; i++)
        draw()
    split("north centre south", region, " ")
    split("0.60 0.30 0.10", ill, " ")      # shares of a region's malignant cases
    split("0.15 0.35 0.50", healthy, " ")  # and of its benign ones
    split("radius texture perimeter area smoothness compactness concavity concave_points symmetry " \
          "fractal_dimension", measure, " ")
    header = "patient"
    split("mean error worst", kind, " ")
    for (k = 1; k <= 3; k++)
        for (m = 1; m <= 10; m++)
            header = header "," measure[m] "_" kind[k]
    header = header ",diagnosis"
    for (r = 1; r <= 3; r++)
        for (h = 1; h <= 3; h++)
            print header > (out "/" region[r] "-" h ".csv")
}

FNR > 1 {
    home = $2 < 17.1 ? 1 : $2 < 20.6 ? 2 : 3
    r = draw() < 0.7 ? home : 1 + int(draw() * 3)
    malignant = $31 == 0
    u = draw()
    h = 1
    for (sum = malignant ? ill[1] : healthy[1]; h < 3 && u >= sum; sum += malignant ? ill[h] : healthy[h])
        h++
    sub(/,[01]\r?$/, malignant ? ",malignant" : ",benign")
    print "wdbc-" (FNR - 1) "," $0 > (out "/" region[r] "-" h ".csv")
}
