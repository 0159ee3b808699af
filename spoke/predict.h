/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke predict: a released model on a hospital's own data, as a second reader. Rows are
 * read as training would read them, but for what is to be learnt, which need not be there. Scores
 * become a CSV file, masks NIfTI files on the grids of their images, and beside them a JSON file
 * says by SHA-256 which model made them. Nothing that exists is written over.
 *
 * Threads: one, and the device's.
 */
#ifndef CONSILIUM_SPOKE_PREDICT_H
#define CONSILIUM_SPOKE_PREDICT_H

#include "spoke/data.h"
#include "tier/graph.h"

#include <stdio.h>

struct spoke_predict {
    const char *schema, *data;
    const char *graph;    /* an ONNX file */
    const char *model;    /* a published .safetensors; NULL: the graph's own values */
    const char *kept;     /* a hospital's own tensors, or NULL */
    const char *like;     /* the data whose training rows standardise these, or NULL */
    const char *out;      /* a new CSV file; of masks a new folder */
    const char *device;   /* NULL: cpu */
    int threads;          /* 0: one for each core */
    bool part_set;        /* only that part of the schema's split, whose training rows */
    enum spoke_part part; /* standardise; else all rows, undivided */
    bool fold_set;
    uint32_t fold; /* instead of the schema's */
    /* The model takes windows of the schema's images: slid over each, with this overlap. Else a
     * model with another input than the schema's images is refused. */
    bool slides;
    double overlap;
    const char *consent, *opt_out; /* as spoke/consent.h has them; NULL: none */
    int purpose;                   /* enum tier_plan_purpose */
};

struct spoke_predicted {
    struct tier_hash model; /* of the file with the values */
    uint64_t rows;
};

/* TIER_ECONFLICT where the output exists, TIER_EMODEL and TIER_EDATA for what does not fit. */
enum tier_status spoke_predict(const struct spoke_predict *what, struct spoke_predicted *out,
                               struct tier_err *err);

/*
 * A graph's parameters, float[tier_graph_elements], out of the tensors of one or two files, by
 * name: `kept` (or NULL) has those that the model lacks. What a model carries for training alone
 * (scaffold/..., fedcurv/...) is passed over. TIER_EMODEL names the tensor that is not there, is
 * there in another shape, or is none of the graph's.
 */
enum tier_status spoke_predict_values(const struct tier_graph *graph, const char *model,
                                      const char *kept, float *values, struct tier_err *err);

/* The command, argv[0] being its own name; its exit status. */
int spoke_predict_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
