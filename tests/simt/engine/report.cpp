/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/simt/engine/engine.h"

#include <cstdarg>
#include <cstdio>
#include <dlfcn.h>
#include <map>
#include <set>
#include <string>

namespace simt {

static std::map<std::string, size_t> findings;
static std::set<std::pair<std::string, const void *>> printed;
static std::map<std::string, unsigned> failures;
static std::map<std::string, uint64_t> calls;
static uint64_t random_state = 1;
static bool quiet_run;

void report_begin(uint64_t seed, bool quiet) {
    findings.clear();
    printed.clear();
    failures.clear();
    random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    quiet_run = quiet;
}

size_t pick(size_t below) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)((random_state >> 33) % below);
}

bool injected(const char *call) {
    calls[call]++;
    auto it = failures.find(call);
    return it != failures.end() && it->second != 0 && --it->second == 0;
}

/* Best effort, for a person: needs binutils. */
static void print_line_of(const void *pc) {
    Dl_info info;
    char command[600], line[400];
    if (pc == nullptr || dladdr(pc, &info) == 0) {
        return;
    }
    size_t offset = (size_t)((const char *)pc - (const char *)info.dli_fbase) - 1;
    snprintf(command, sizeof command, "addr2line -s -C -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
             offset);
    FILE *tool = popen(command, "r");
    if (tool == nullptr) {
        return;
    }
    if (fgets(line, sizeof line, tool) != nullptr) {
        fprintf(stderr, "      at %s", line);
    }
    pclose(tool);
}

void report(const char *kind, const void *pc, const char *fmt, ...) {
    findings[kind]++;
    if (quiet_run || !printed.insert({kind, pc}).second) {
        return;
    }
    fprintf(stderr, "simt: %s: ", kind);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " [%s]\n", where_text());
    print_line_of(pc);
}

} // namespace simt

void simt_fail_at(const char *call, unsigned n) {
    simt::failures[call] = n;
}

uint64_t simt_calls(const char *call) {
    return simt::calls[call];
}

size_t simt_findings(void) {
    size_t all = 0;
    for (const auto &f : simt::findings) {
        all += f.second;
    }
    return all;
}

size_t simt_findings_of(const char *kind) {
    auto it = simt::findings.find(kind);
    return it == simt::findings.end() ? 0 : it->second;
}
