// The CUDA engine's kernel with its launch, as a library for a CPU. Built once for each choice of the kernel's macros.
#define CROSSENT_MACHINE "machine.h"
#include "kernel.cu"

namespace {

const Problem *problem_of_launch;

void one_thread() { walk(*problem_of_launch); }

// Allow elements of `size` bytes: `count` of them, `step` elements apart.
void allow(std::vector<emulator::Area> &areas, const void *first, long long size, long long rows, long long row_step,
           long long columns, long long column_step, const std::vector<bool> *only = nullptr) {
    if (!first || !rows || !columns) return;
    auto reach = [](long long count, long long step) { return (count - 1) * step; };
    auto least = [](long long x) { return x < 0 ? x : 0; };
    auto most = [](long long x) { return x > 0 ? x : 0; };
    const long long down = reach(rows, row_step), right = reach(columns, column_step);
    const long long low = least(down) + least(right), high = most(down) + most(right) + 1;
    emulator::Area area{address_of(first) + low * size, std::vector<bool>((high - low) * size)};
    for (long long i = 0; i < rows; ++i) {
        if (only && !(*only)[i]) continue;
        for (long long j = 0; j < columns; ++j)
            for (long long k = 0; k < size; ++k) area.allowed[(i * row_step + j * column_step - low) * size + k] = true;
    }
    areas.push_back(std::move(area));
}

void allow_what_the_problem_names(const Problem &p) {
    typedef CROSSENT_FORMAT::Real Real;
    const long long element = sizeof(CROSSENT_FORMAT::Bits), soft = p.soft_format == 0 ? 4 : p.soft_format == 1 ? 8 : 2;
    // Rows that do not count are none of the kernel's business.
    std::vector<bool> counted(p.rows, true);
    for (long long i = 0; i < p.rows; ++i)
        counted[i] = !(!p.ieee && p.weight && static_cast<const Real *>(p.weight)[i] == 0);
    emulator::readable.clear();
    emulator::writable.clear();
    allow(emulator::readable, p.logits, element, p.rows, p.logits_row, p.classes, p.logits_column, &counted);
    allow(emulator::readable, p.soft, soft, p.rows, p.soft_row, p.classes, p.soft_column, &counted);
    allow(emulator::readable, p.targets, 8, 1, 0, p.rows, 1);
    allow(emulator::readable, p.weight, sizeof(Real), 1, 0, p.rows, 1);
    allow(emulator::readable, p.class_weights, sizeof(Real), 1, 0, p.classes, 1);
    allow(emulator::readable, p.scales, p.scales_format ? 8 : 4, 1, 0, p.scales_row ? p.rows : 1, 1);
    allow(emulator::readable, p.numbers, sizeof(Real), 4, p.rows, p.rows, 1);
    allow(emulator::writable, p.found, sizeof(Real), CROSSENT_PASS == DESCRIBE ? 4 : 7, p.rows, p.rows, 1);
    allow(emulator::writable, p.apart, 8, 1, 0, p.rows, 1);
    allow(emulator::writable, p.losses, sizeof(Real), 1, 0, p.rows, 1);
    allow(emulator::writable, p.gradient, element, p.rows, p.gradient_row, p.classes, p.gradient_column);
}

}  // namespace

// Run the kernel; the trouble that was seen is written to `message`, and nothing where there was none.
extern "C" __attribute__((visibility("default"))) void launch(const Problem *problem, long long blocks, int threads, int cluster, int shared_bytes,
                       unsigned long long seed, char *message, int size) {
    static char *stacks = nullptr;
    if (!stacks)
        stacks = static_cast<char *>(mmap(nullptr, emulator::STACK * emulator::MOST_THREADS, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    emulator::trouble.clear();
    problem_of_launch = problem;
    emulator::body = one_thread;
    emulator::blocks_of_grid = blocks;
    emulator::dice.seed(seed);
    allow_what_the_problem_names(*problem);
    for (long long first = 0; first < blocks; first += cluster)
        emulator::run_cluster(first, cluster, threads, shared_bytes, stacks);
    std::snprintf(message, size, "%s", emulator::trouble.c_str());
}
