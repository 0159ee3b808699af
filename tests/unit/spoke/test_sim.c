/* SPDX-License-Identifier: Apache-2.0 */
/* Who takes part in a simulated federation, and who has which patients. */
#include "spoke/sim.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <string.h>

#define SITES 8
#define ROWS 1000

static struct tier_err err;
static struct sim_tree tree;
static struct spoke_schema *schema;
static struct sim_table table;
static struct sim_site sites[SITES];
static char path[SITES][128];
static const char *paths[SITES];
static const char *names[SITES] = {"a", "b", "c", "d", "e", "f", "g", "h"};

static void end(void) {
    for (int i = 0; i < SITES; i++)
        free(sites[i].classes);
    sim_table_release(&table);
    sim_tree_release(&tree);
    spoke_schema_free(schema);
    temp_release();
}

TestSuite(spoke_sim, .fini = end);

/* ---- trees ---- */

static enum tier_status load(const char *text) {
    return sim_tree_load(temp_file("tree.yaml", text), &tree, &err);
}

static size_t find(const char *name) {
    for (size_t i = 0; i < tree.count; i++)
        if (strcmp(tree.node[i].name, name) == 0)
            return i;
    cr_fatal("no node %s", name);
}

Test(spoke_sim, a_tree_has_every_node_below_its_parent) {
    cr_assert(eq(int,
                 load("name: national\nspokes: 1\nhubs:\n  - {name: north, spokes: 2}\n"
                      "  - name: south\n    spokes: [hill, vale]\n"
                      "    hubs: [{name: coast, spokes: 3}]\n"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(sz, tree.count, 12));
    cr_expect(eq(sz, tree.spokes, 8));
    cr_expect(eq(sz, find("national"), 0));
    cr_expect(eq(sz, tree.node[find("national-1")].parent, 0));
    cr_expect(eq(sz, tree.node[find("north-2")].parent, find("north")));
    cr_expect(eq(sz, tree.node[find("vale")].parent, find("south")));
    cr_expect(eq(sz, tree.node[find("coast-3")].parent, find("coast")));
    cr_expect(eq(sz, tree.node[find("coast")].parent, find("south")));
    cr_expect(eq(sz, tree.node[find("south")].children, 3));
    for (size_t i = 1; i < tree.count; i++)
        cr_expect(tree.node[i].parent < i && tree.node[tree.node[i].parent].hub);
}

Test(spoke_sim, what_is_wrong_with_a_tree_is_said_with_its_line) {
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"hubs:\n  - {name: a, spokes: 1}\n  - {name: a, spokes: 1}\n",
         "tree.yaml:3: a second node"},
        {"hubs:\n  - {name: a, spoke: 1}\n", "tree.yaml:2: 'spoke' is no key"},
        {"hubs:\n  - {spokes: 1}\n", "tree.yaml:2: a hub without a name"},
        {"hubs:\n  - {name: a}\n", "tree.yaml:2: 'a' has neither"},
        {"hubs: {name: a, spokes: 1}\n", "hubs is a list"},
        {"spokes: many\n", "tree.yaml:1: spokes: how many"},
        {"spokes: -1\n", "tree.yaml:1: spokes: how many"},
        {"spokes: 1000000\n", "too many spokes"},
        {"spokes: [top]\n", "a second node with the name 'top'"},
        {"spokes: [\"a b\"]\n", "a node's name has letters"},
        {"spokes: 2\nhubs:\n  - {name: top-1, spokes: 1}\n", "a second node with the name 'top-1'"},
        {"hubs: [{name: x, hubs: [{name: y, spokes: 1}]}, {name: z, spokes: [y-1]}]\n", "'y-1'"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        err = (struct tier_err){0};
        cr_expect(eq(int, load(wrong[i].text), TIER_ECONFIG), "%s", wrong[i].text);
        cr_expect(strstr(err.text, wrong[i].why) != NULL, "%s: %s", wrong[i].text, err.text);
    }
}

Test(spoke_sim, spokes_are_dealt_evenly_to_hubs) {
    cr_assert(eq(int, sim_tree_even(3, 8, &tree, &err), TIER_OK));
    cr_expect(eq(sz, tree.count, 12));
    cr_expect(eq(sz, tree.node[1].children, 3));
    cr_expect(eq(sz, tree.node[3].children, 2));
    sim_tree_release(&tree);
    cr_assert(eq(int, sim_tree_even(0, 5, &tree, &err), TIER_OK));
    cr_expect(eq(sz, tree.node[0].children, 5));
    sim_tree_release(&tree);
    cr_expect(eq(int, sim_tree_even(3, 2, &tree, &err), TIER_EARG));
}

/* ---- tables ---- */

/* Row i has the id i, three of ten are ill; its hospital is one of SITES. */
static void open_table(const struct sim_split *split) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);

    fputs("id,age,hospital,ill\n", f);
    for (int i = 0; i < ROWS; i++)
        fprintf(f, "%d,%d,\"place, %d\",%s\n", i, 20 + i % 60, i % SITES,
                i % 10 < 3 ? "yes" : "no");
    fclose(f);
    const char *data = temp_file("all.csv", text);
    free(text);
    cr_assert(eq(int,
                 spoke_schema_open(
                     temp_file("schema.yaml",
                               "name: test\ncolumns:\n  - {name: id, type: id}\n"
                               "  - {name: age, type: number}\n  - {name: hospital, type: ignore}\n"
                               "  - {name: ill, type: target, categories: [\"no\", \"yes\"]}\n"
                               "split: {by: hash, key: a longer key, fraction: 0.3}\n"),
                     &schema, &err),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, sim_table_open(schema, data, split, &table, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, table.rows, ROWS));
    for (int i = 0; i < SITES; i++) {
        char name[32];
        snprintf(name, sizeof name, "site-%d.csv", i);
        snprintf(path[i], sizeof path[i], "%s", temp_file(name, ""));
        paths[i] = path[i];
    }
}

static enum tier_status deal_by(const char *how, struct sim_split split) {
    cr_assert(eq(int, sim_split_parse(how, &split, &err), TIER_OK), "%s", err.text);
    if (!table.rows)
        open_table(&split);
    for (int i = 0; i < SITES; i++) {
        free(sites[i].classes);
        sites[i].classes = NULL;
    }
    return sim_deal(&table, &split, names, paths, SITES, sites, &err);
}

static char *read_all(const char *file) {
    static char text[1 << 20];
    FILE *f = fopen(file, "r");
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

/* How often each id is in the sites' files; whose header is the table's. */
static void count_ids(int seen[ROWS]) {
    memset(seen, 0, ROWS * sizeof *seen);
    for (int s = 0; s < SITES; s++) {
        char *rest = read_all(path[s]), *line = strsep(&rest, "\n");
        cr_assert(eq(str, line, "id,age,hospital,ill"));
        while ((line = strsep(&rest, "\n")) && *line)
            seen[strtol(line, NULL, 10)]++;
    }
}

static size_t whole(int s) {
    return sites[s].rows;
}

static double ill_share(int s) {
    size_t yes = strcmp(table.class_name[0], "yes") == 0 ? 0 : 1;
    return (double)sites[s].classes[yes] / (double)sites[s].rows;
}

static double spread(double (*of)(int), double *mean_out) {
    double sum = 0, squares = 0;
    for (int s = 0; s < SITES; s++) {
        sum += of(s);
        squares += of(s) * of(s);
    }
    *mean_out = sum / SITES;
    return sqrt(fmax(0, squares / SITES - *mean_out * *mean_out));
}

static double size_of(int s) {
    return (double)sites[s].rows;
}

static void every_row_once(void) {
    int seen[ROWS];
    count_ids(seen);
    for (int i = 0; i < ROWS; i++)
        cr_expect(eq(int, seen[i], 1));
}

Test(spoke_sim, iid_sites_are_alike_and_have_every_patient_once) {
    double mean;
    cr_assert(eq(int, deal_by("iid", (struct sim_split){.seed = 1}), TIER_OK), "%s", err.text);
    every_row_once();
    cr_expect(spread(size_of, &mean) < 1);
    cr_expect(spread(ill_share, &mean) < 0.01);
}

Test(spoke_sim, small_alpha_makes_sites_unlike) {
    double mean;
    cr_assert(
        eq(int, deal_by("dirichlet:0.3", (struct sim_split){.seed = 3, .rows_min = 2}), TIER_OK),
        "%s", err.text);
    every_row_once();
    double uneven = spread(ill_share, &mean);
    cr_assert(eq(int, deal_by("dirichlet:1000", (struct sim_split){.seed = 3}), TIER_OK));
    every_row_once();
    cr_expect(uneven > 0.2 && spread(ill_share, &mean) < 0.05, "%g", uneven);
}

Test(spoke_sim, quantity_skew_leaves_the_mix_alone) {
    double mean;
    cr_assert(
        eq(int, deal_by("quantity:0.5", (struct sim_split){.seed = 1, .rows_min = 20}), TIER_OK),
        "%s", err.text);
    every_row_once();
    cr_expect(spread(size_of, &mean) > 40);
    cr_expect(spread(ill_share, &mean) < 0.03);
    for (int s = 0; s < SITES; s++)
        cr_expect(ge(sz, whole(s), 20));
}

Test(spoke_sim, a_column_names_the_site) {
    cr_assert(eq(int, deal_by("column:hospital", (struct sim_split){.seed = 1}), TIER_OK), "%s",
              err.text);
    every_row_once();
    cr_expect(strstr(read_all(path[3]), "\n3,23,\"place, 3\",no\n") != NULL);
    cr_expect(strstr(read_all(path[3]), "\n11,31,\"place, 3\",yes\n") != NULL);
    for (int s = 0; s < SITES; s++)
        cr_expect(eq(sz, whole(s), ROWS / SITES));
}

Test(spoke_sim, a_site_with_the_name_of_a_value_has_its_rows) {
    names[0] = "place, 3";
    cr_assert(eq(int, deal_by("column:hospital", (struct sim_split){.seed = 1}), TIER_OK), "%s",
              err.text);
    every_row_once();
    cr_expect(strstr(read_all(path[0]), "\n3,23,\"place, 3\",no\n") != NULL);
    cr_expect(strstr(read_all(path[1]), "\n0,20,\"place, 0\",yes\n") != NULL);
    cr_expect(strstr(read_all(path[4]), "\n4,24,\"place, 4\",no\n") != NULL);
}

Test(spoke_sim, rows_are_drawn_again_and_again_by_the_sites_mix) {
    int seen[ROWS], most = 0;
    double mean;
    cr_assert(eq(int, deal_by("iid", (struct sim_split){.seed = 1, .rows = 2000}), TIER_OK));
    count_ids(seen);
    for (int i = 0; i < ROWS; i++)
        most = seen[i] > most ? seen[i] : most;
    cr_expect(most > 16);
    for (int s = 0; s < SITES; s++)
        cr_expect(eq(sz, whole(s), 2000));
    cr_expect(spread(ill_share, &mean) < 0.03 && fabs(mean - 0.3) < 0.03, "%g", mean);
    cr_assert(
        eq(int, deal_by("dirichlet:0.3", (struct sim_split){.seed = 3, .rows = 200}), TIER_OK));
    cr_expect(spread(ill_share, &mean) > 0.2);
}

Test(spoke_sim, a_seed_gives_the_same_files_again) {
    cr_assert(eq(int, deal_by("dirichlet:0.5", (struct sim_split){.seed = 5}), TIER_OK));
    char *first = strdup(read_all(path[0]));
    cr_assert(eq(int, deal_by("dirichlet:0.5", (struct sim_split){.seed = 5}), TIER_OK));
    cr_expect(eq(str, read_all(path[0]), first));
    cr_assert(eq(int, deal_by("dirichlet:0.5", (struct sim_split){.seed = 6}), TIER_OK));
    cr_expect(ne(str, read_all(path[0]), first));
    free(first);
}

Test(spoke_sim, what_cannot_be_dealt_is_refused) {
    static const char *const splits[] = {
        "iid:1",     "dirichlet", "dirichlet:0", "dirichlet:x", "dirichlet:-1",
        "quantity:", "column:",   "column",      "shards:2",    "dirichlet:1e9",
        ""};
    struct sim_split split = {.seed = 1};

    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++)
        cr_expect(eq(int, sim_split_parse(splits[i], &split, &err), TIER_EARG), "%s", splits[i]);
    cr_expect(eq(int, deal_by("iid", (struct sim_split){.seed = 1, .rows_min = 200}), TIER_EARG));
    cr_expect(strstr(err.text, "too few for 8 sites") != NULL, "%s", err.text);
    cr_expect(eq(int, deal_by("dirichlet:0.001", (struct sim_split){.seed = 1, .rows_min = 100}),
                 TIER_EARG));
    cr_expect(strstr(err.text, "a larger ALPHA") != NULL, "%s", err.text);
    split = (struct sim_split){.kind = SIM_SPLIT_COLUMN, .column = "town"};
    struct sim_table other;
    cr_expect(eq(int,
                 sim_table_open(schema, temp_file("b.csv", "id,age,hospital,ill\n1,2,3,no\n"),
                                &split, &other, &err),
                 TIER_EARG));
    cr_expect(strstr(err.text, "no column 'town'") != NULL, "%s", err.text);
    split = (struct sim_split){.kind = SIM_SPLIT_IID};
    cr_expect(eq(int,
                 sim_table_open(schema, temp_file("c.csv", "id,age,hospital,ill\n1,2,no\n"), &split,
                                &other, &err),
                 TIER_EARG));
    cr_expect(strstr(err.text, "c.csv:2: 3 cells") != NULL, "%s", err.text);
}
