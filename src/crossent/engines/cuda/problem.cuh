// The argument of a launch. `argument.py` has the same structure; strides are in elements.
#pragma once

// What is done with the rows: their losses alone; these and the gradient; these and what else rows tell; or one of the two
// halves, for pieces of rows.
enum Pass { LOSSES, WALK, DESCRIBE, STATISTICS, GRADIENT };

// What rows are compared with: one target each, or several; or what is measured of them, alone or beside a teacher's.
enum Targets { HARD, SMOOTHED, LOG_SUM_EXP, ENTROPY, SPREAD, SOFT, FORWARD, REVERSE, JENSEN_SHANNON };

struct Problem {
    const void *logits;
    const void *soft;            // soft targets, or a teacher's logits (N, V), or null
    void *gradient;              // or null
    const long long *targets;    // (N,), or null
    void *losses;                // (N,)
    const void *weight;          // (N,), or null where every row weighs 1
    const void *class_weights;   // (V,), or null where every class weighs 1
    void *found;                 // (7, N) of `store_statistics`, or (4, N) of `store_spread`; or null
    long long *apart;            // (N,): the classes of soft targets that are kept apart; or null
    const void *numbers;         // (4, N): maximum, factor, uniform term and the target's entry of each row; or null
    const void *scales;          // (N,) or one number that the device holds, or null for `scale`
    long long logits_row, logits_column;
    long long soft_row, soft_column;
    long long gradient_row, gradient_column;
    long long scales_row;
    long long rows;
    long long first_class, vocabulary;  // the number of the first class of the logits, and of how many
    double scale, target_mass, smoothing, z_loss;
    double inverse_temperature, scale_of_logits, softcap;  // 1/T, what logits are multiplied by, and their bound
    double mixture;              // of a Jensen-Shannon divergence, the share of the teacher
    int classes, includes_target, ieee;
    int soft_format, scales_format;  // see `single` in rows.cuh
    int pieces;                  // that a row is walked in; one: a row belongs to a team, more: to a whole cluster
    int cluster_log2;            // of the number of blocks that see each other's shared memory
};
