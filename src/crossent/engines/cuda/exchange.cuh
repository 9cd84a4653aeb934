// Messages between the warps of a cluster: each writes numbers that all of them read after one barrier.
#pragma once

// Two tables in the shared memory of every block take turns, so that one barrier is enough: a warp that writes a table
// again has passed a barrier that all warps reached after reading it.
template <class Entry> struct Exchange {
    int entries, blocks, turn;

    METHOD Exchange(int entries, int blocks) : entries(entries), blocks(blocks), turn(0) {}

    METHOD Entry *table() const { return reinterpret_cast<Entry *>(shared_memory()) + turn * entries; }

    // Write an entry into every block's table, from all lanes of a warp.
    METHOD void send(int place, const Entry &entry) const {
        if (lane() < blocks) *remote(table() + place, lane()) = entry;
    }

    // Wait for all warps; the entries are good until the next but one `all`.
    METHOD const Entry *all() {
        sync_cluster(blocks);
        const Entry *full = table();
        turn ^= 1;
        return full;
    }
};
