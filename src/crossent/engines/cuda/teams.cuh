// Lanes of a warp that work on the same numbers: 1, 8 or 32 of them side by side. Every lane of a team gets the same
// bits, and the order of every sum is written down.
#pragma once

template <int LANES> struct Team {
    METHOD static int lane() { return ::lane() & (LANES - 1); }

    // Teams of the warp before this one.
    METHOD static int before() { return ::lane() / LANES; }

    template <class T> METHOD static T sum(T x) {
#pragma unroll
        for (int mask = LANES / 2; mask; mask /= 2) x += from_partner(x, mask);
        return x;
    }
    template <class T> METHOD static T maximum(T x) {
#pragma unroll
        for (int mask = LANES / 2; mask; mask /= 2) x = larger(x, from_partner(x, mask));
        return x;
    }
    // What the next lane holds; the last lane's next is the first.
    template <class T> METHOD static T of_next(T x) {
        const int mine = ::lane();
        return from_lane(x, (mine & ~(LANES - 1)) | ((mine + 1) & (LANES - 1)));
    }
};
