// A tile: the part of a row that one team holds in registers, between its maximum, its sums and its gradient.
//
// The classes of a tile lie in slots: a lane has COUNT slots, and class number j of the tile belongs to slot number
// j mod (LANES·COUNT). A slot adds up its own classes in their order, and the order of the slots is fixed; so the bits of
// a sum do not depend on where in memory the row begins, although what a lane loads does.
#pragma once

enum Layout {
    ALIGNED,    // every row begins at a 16-byte boundary
    UNALIGNED,  // elements lie side by side, and the gradient's rows begin as the logits' rows do
    STRIDED,    // anything else: one element at a time
};

// The statistics of a piece of a row; `weighted_gap` is in units of 1/UNIT.
template <class Real, bool SPREADS> struct Part {
    Real maximum, others, weighted_gap, count;
};

// The same with what rows are like whatever their targets: the sum of the exponentials below the maximum, that of
// exp(y − m)·(m − y), how many classes are at the maximum, and how many above the target.
template <class Real> struct Part<Real, true> {
    Real maximum, others, below, moment;
    int ties, above;

    // Z − 1, of a whole row.
    METHOD Real rest() const { return below + (static_cast<Real>(ties) - 1); }
};

template <class Real> DEVICE SmoothingSums<Real> sums_of(const Part<Real, false> &found) {
    return {found.count, found.count, found.weighted_gap};
}
template <class Real> DEVICE SmoothingSums<Real> sums_of(const Part<Real, true> &) { return {0, 0, 0}; }

// Write what a row tells besides its loss, line after line.
template <class Real> DEVICE void store_spread(const Problem &problem, long long row, const Part<Real, true> &found) {
    const Real numbers[4] = {found.maximum, found.rest(), found.moment, static_cast<Real>(found.above)};
#pragma unroll
    for (int i = 0; i < 4; ++i) store(static_cast<Real *>(problem.found) + i * problem.rows + row, numbers[i]);
}

// Each piece is rescaled by the row's centre; a piece of nothing but −∞ adds nothing.
template <class Real> DEVICE void add_part(Part<Real, false> &all, const Part<Real, false> &part, Real centre) {
    const Real unit = static_cast<Real>(UNIT), further = centre * unit - part.maximum * unit;
    const bool moves = part.maximum != -Limits<Real>::infinity() && further != 0;
    all.others += part.others * precise_exp(part.maximum - centre);
    all.weighted_gap += part.weighted_gap + (moves ? part.count * further : Real(0));
    all.count += part.count;
}

template <class Real> DEVICE void add_part(Part<Real, true> &all, const Part<Real, true> &part, Real centre) {
    const Real scale = precise_exp(part.maximum - centre), total = part.below + static_cast<Real>(part.ties);
    const bool is_largest = part.maximum == centre;
    all.others += part.others * scale;
    all.below += is_largest ? part.below : total * scale;
    all.ties += is_largest ? part.ties : 0;
    // A piece whose exponentials are lost beside the others' may be infinitely far below them.
    all.moment += scale * (part.moment + (scale == 0 ? Real(0) : total * (centre - part.maximum)));
    all.above += part.above;
}

template <int LANES, class Real> DEVICE void add_lanes(Part<Real, false> &all) {
    all.others = Team<LANES>::sum(all.others);
    all.weighted_gap = Team<LANES>::sum(all.weighted_gap);
    all.count = Team<LANES>::sum(all.count);
}

template <int LANES, class Real> DEVICE void add_lanes(Part<Real, true> &all) {
    all.others = Team<LANES>::sum(all.others);
    all.below = Team<LANES>::sum(all.below);
    all.moment = Team<LANES>::sum(all.moment);
    all.ties = Team<LANES>::sum(all.ties);
    all.above = Team<LANES>::sum(all.above);
}

// The statistics of a row from those of its pieces, for all lanes of a team.
template <int LANES, class Real, bool SPREADS> DEVICE Part<Real, SPREADS> merged(const Part<Real, SPREADS> *parts, int count) {
    Real maximum = -Limits<Real>::infinity();
#pragma unroll 1
    for (int i = Team<LANES>::lane(); i < count; i += LANES) maximum = larger(maximum, parts[i].maximum);
    Part<Real, SPREADS> all{};
    all.maximum = Team<LANES>::maximum(maximum);
#pragma unroll 1
    for (int i = Team<LANES>::lane(); i < count; i += LANES) add_part(all, parts[i], centre_of(all.maximum));
    add_lanes<LANES>(all);
    return all;
}

template <class Format, Layout LAYOUT, int LANES, Targets TARGETS, bool SPREADS, Transform TRANSFORM> struct Tile {
    typedef typename Format::Real Real;
    typedef ::Seen<Real, TRANSFORM> Seen;
    typedef ::Part<Real, SPREADS> Part;
    typedef Row<Format, LAYOUT == STRIDED> Line;
    static constexpr int COUNT = Format::COUNT;
    static constexpr bool IS_SMOOTHED = TARGETS == SMOOTHED, HAS_TARGETS = TARGETS == HARD || IS_SMOOTHED;
    // The sums of smoothed targets need registers too. A spread's are not to change a row's tiles, and so its bits.
    static constexpr int GRANULES = IS_SMOOTHED && COUNT > 2 ? 4 : 8;
    static constexpr int WIDTH = LANES * COUNT * GRANULES;

    typedef Team<LANES> team;
    Granule held[GRANULES];
    Granule last;  // of the first lane of an unaligned tile: the classes after the last whole granule
    int ahead;     // how many classes of the first granule belong to the tile before
    int room;      // how many classes the tile holds; WIDTH, where the row goes on

    // The place in the tile that granule number k of this lane begins at.
    METHOD int place_of(int k) const { return (k * LANES + team::lane()) * COUNT - ahead; }
    METHOD bool is_whole(int place) const { return (LAYOUT != UNALIGNED || place >= 0) && place + COUNT <= room; }
    // Whether granule number k of no lane has anything, which is worth a question in short rows only.
    METHOD bool is_empty(int k) const { return LANES < 32 && k * LANES * COUNT - ahead >= room; }
    METHOD bool starts_ahead() const { return LAYOUT == UNALIGNED && ahead && team::lane() == 0; }

    // Which granule of this lane the row ends in the middle of; −1 for none, or one that `starts_ahead`.
    METHOD int broken() const {
        const int reach = room + ahead;
        if (room == WIDTH || room <= 0 || reach >= WIDTH || reach % COUNT == 0) return -1;
        const int granule = reach / COUNT;
        return granule % LANES == team::lane() && !(granule == 0 && ahead) ? granule / LANES : -1;
    }

    // --- loading and storing ------------------------------------------------------------------------------------------

    // Hold the first classes of a part of a row, where `left` are; −∞ stands for those that are not there.
    METHOD void load(const Line &x, int left) {
        room = left < WIDTH ? left : WIDTH;
        ahead = LAYOUT == UNALIGNED ? x.misaligned() : 0;
        if (LAYOUT == UNALIGNED) last = nothing<Format>();
        if (LAYOUT == STRIDED) {
#pragma unroll
            for (int k = 0; k < GRANULES; ++k) held[k] = x.some(place_of(k), room);
            return;
        }
        if (LAYOUT == ALIGNED && room == WIDTH) {
            // From here, all granules of this lane are a number of bytes away that the compiler knows.
            const Line mine = x.from(place_of(0));
#pragma unroll
            for (int k = 0; k < GRANULES; ++k) held[k] = mine.whole(k * LANES * COUNT);
            return;
        }
#pragma unroll
        for (int k = 0; k < GRANULES; ++k) {
            held[k] = nothing<Format>();
            if (is_whole(place_of(k))) held[k] = x.whole(place_of(k));
        }
        if (starts_ahead()) {
            held[0] = x.some(-ahead, room);
            last = x.some(WIDTH - ahead, room);
        }
        const int k = broken();
        if (k >= 0) {
            const Granule g = x.some(place_of(k), room);
#pragma unroll
            for (int i = 0; i < GRANULES; ++i)
                if (i == k) held[i] = g;
        }
    }

    // Write factor·exp(y − centre) − uniform term, the latter for the classes that can occur (without `ieee`), or what a measure
    // has in its place, times the slope,
    // and the entry of the target, over the same classes of another row, where `left` are.
    METHOD void store(const Line &d, int left, int target, Real centre, const Outcome<Real> &result, const Seen &seen, bool ieee) {
        room = left < WIDTH ? left : WIDTH;
        Real x[COUNT];
        const Line mine = d.from(place_of(0));
        if (LAYOUT == ALIGNED && room == WIDTH) {
#pragma unroll
            for (int k = 0; k < GRANULES; ++k) {
                gradient(held[k], centre, result, seen, ieee, x);
                mine.put_whole(k * LANES * COUNT, Format::narrow(x));
            }
        } else {
#pragma unroll
            for (int k = 0; k < GRANULES; ++k) {
                if (is_empty(k)) continue;
                gradient(held[k], centre, result, seen, ieee, x);
                if (LAYOUT == STRIDED) {
                    d.put_some(place_of(k), x, room);
                } else if (is_whole(place_of(k))) {
                    mine.put_whole(k * LANES * COUNT, Format::narrow(x));
                }
            }
        }
        if (LAYOUT != STRIDED) {
            if (starts_ahead()) {
                gradient(held[0], centre, result, seen, ieee, x);
                d.put_some(-ahead, x, room);
                gradient(last, centre, result, seen, ieee, x);
                d.put_some(WIDTH - ahead, x, room);
            }
            const int k = broken();
            if (k >= 0) {
                Granule g = held[0];
#pragma unroll
                for (int i = 1; i < GRANULES; ++i)
                    if (i == k) g = held[i];
                gradient(g, centre, result, seen, ieee, x);
                d.put_some(place_of(k), x, room);
            }
        }
        // Written by the lane that has just written something else there.
        if (target >= 0 && target < room) {
            const int granule = (target + ahead) / COUNT;
            if (granule % LANES == team::lane()) d.put(target, Format::narrow_one(result.entry));
        }
    }

    // --- statistics ---------------------------------------------------------------------------------------------------

    // Of the classes without the target, whose place in the tile is `target`, if it is there; a spread is of all classes.
    METHOD Part statistics(int target, Real threshold, const Seen &seen, bool ieee) const {
        Part found;
        found.maximum = seen(team::maximum(largest()));
        const Real centre = centre_of(found.maximum);
        Sums sums = {};
        if (target >= 0 && target < room)
            sums_of<true>(sums, centre, target, threshold, seen, ieee);
        else
            sums_of<false>(sums, centre, 0, threshold, seen, ieee);
        found.others = HAS_TARGETS ? total(sums.others) : Real(0);
        if constexpr (SPREADS) {
            found.below = total(sums.below);
            found.moment = TARGETS != LOG_SUM_EXP ? total(sums.moment) : Real(0);
            found.ties = team::sum(sums.count);
            found.above = HAS_TARGETS ? team::sum(sums.above) : 0;
        } else {
            found.weighted_gap = IS_SMOOTHED ? total(sums.weighted_gap) : Real(0);
            found.count = IS_SMOOTHED ? static_cast<Real>(team::sum(sums.count)) : Real(0);
        }
        return found;
    }

  private:
    // A number for each slot of this lane.
    struct Sums {
        Real others[COUNT], weighted_gap[COUNT], below[COUNT], moment[COUNT];
        int count, above;  // of other classes, or of those at the maximum; of those above the threshold
    };

    METHOD Real largest() const {
        Granule most = held[0];
#pragma unroll
        for (int k = 1; k < GRANULES; ++k) Format::keep_larger(most, held[k]);
        if (LAYOUT == UNALIGNED) Format::keep_larger(most, last);
        Real x[COUNT];
        Format::widen(most, x);
#pragma unroll
        for (int half = COUNT / 2; half; half /= 2)
#pragma unroll
            for (int i = 0; i < half; ++i) x[i] = larger(x[i], x[i + half]);
        return x[0];
    }

    template <bool HAS_TARGET>
    METHOD void sums_of(Sums &sums, Real centre, int target, Real threshold, const Seen &seen, bool ieee) const {
#pragma unroll
        for (int k = 0; k < GRANULES; ++k)
            if (!is_empty(k)) add<HAS_TARGET>(sums, held[k], place_of(k), room, centre, target, threshold, seen, ieee);
        if (LAYOUT == UNALIGNED && ahead) {
            // Only the first lane has any.
            const int place = WIDTH - ahead, end = starts_ahead() ? room : place;
            add<HAS_TARGET>(sums, last, place, end, centre, starts_ahead() ? target : -1, threshold, seen, ieee);
        }
    }

    template <bool HAS_TARGET>
    METHOD void add(Sums &sums, const Granule &g, int place, int end, Real centre, int target, Real threshold,
                    const Seen &seen, bool ieee) const {
        Real x[COUNT];
        Format::widen(g, x);
        const Real unit = static_cast<Real>(UNIT);
        const bool whole = place >= 0 && place + COUNT <= end;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const bool is_target = HAS_TARGET && i == target - place;
            const bool is_there = whole || (place + i >= 0 && place + i < end);
            const Real y = seen(x[i]);
            // A softcap would make a number of the −∞ that stands for a class that is not there.
            const Real e = TRANSFORM == CAPPED && !is_there ? Real(0) : exponential(y - centre);
            sums.others[i] += is_target ? Real(0) : e;
            if (SPREADS) {
                // ∞ is not as far as ∞: such a row is NaN. The −∞ of a class that is not there is never the largest.
                const Real gap = centre - y;
                const bool is_largest = (TRANSFORM != CAPPED || is_there) && gap == 0;
                sums.below[i] += is_largest ? Real(0) : e;
                // The gap is infinite where the exponential is 0, or may be.
                sums.moment[i] += e == 0 ? Real(0) : e * gap;
                sums.count += is_largest;
                // The raw logits are compared, whose order the transform keeps, but where it rounds.
                sums.above += x[i] > threshold;
            }
            if (IS_SMOOTHED) {
                // Scaled before the subtraction, so that it cannot overflow. 0·∞ counts as 0, without `ieee`.
                const bool occurs = (ieee || y != -Limits<Real>::infinity());
                const bool counts = is_there && occurs && !is_target;
                sums.weighted_gap[i] += counts ? centre * unit - y * unit : Real(0);
                sums.count += counts;
            }
        }
    }

    METHOD void gradient(const Granule &g, Real centre, const Outcome<Real> &result, const Seen &seen, bool ieee,
                         Real (&x)[COUNT]) const {
        Format::widen(g, x);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const Real y = seen(x[i]);
            const Real share = IS_SMOOTHED && (ieee || y != -Limits<Real>::infinity()) ? result.uniform_term : Real(0);
            const Real e = exponential(y - centre);
            Real d = result.factor * e - share;
            // The gap is infinite where the exponential is 0, or may be.
            if (TARGETS == ENTROPY) d = result.factor * (e * ((e == 0 ? Real(0) : centre - y) - result.uniform_term));
            x[i] = TRANSFORM == CAPPED ? d * seen.slope(x[i]) : d;
        }
    }

    // The slots of the team, added up: within a lane those that are half of them apart, again and again; then the lanes.
    METHOD Real total(Real (&slots)[COUNT]) const {
        if (LAYOUT == UNALIGNED) {
            // Slot number i of this lane is slot number i − ahead of the tile. Where that is one of the lane before, it
            // is handed over; that the slots are turned by `ahead` does not matter to such a sum.
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                const Real next = team::of_next(slots[i]);
                if (i < ahead) slots[i] = next;
            }
        }
#pragma unroll
        for (int half = COUNT / 2; half; half /= 2)
#pragma unroll
            for (int i = 0; i < half; ++i) slots[i] += slots[i + half];
        return team::sum(slots[0]);
    }
};
