//! Eviction: with `--data-limit`, what is used least makes room for what is written.
//!
//! Which item will not be read again, nobody knows. A good guess is one that was not used for
//! longest; and if nobody has read it since it was stored, much sooner. The index notes
//! when an item was used last (`Entry::access`), so no hit has to move it in a list.
//!
//! When the live records are over the limit, a first pass over the index adds up how many
//! bytes are used how little; that gives the bound from which on items have to go. A second
//! pass deletes them, until the live records are nine tenths of the limit. The limit is checked
//! fifty times a second, so writes can exceed it for 20 ms.
//!
//! - C7: what is evicted is deleted, as by a client: a record in the log says so first, and a
//!   miss depends on it. No crash brings back what a client was told is not there.
//!
//! Left out: how often an item was read, which would take more bits; and accesses on disk, so
//! after a restart no item counts as read.

use crate::store::error::Result;
use crate::store::index::SHARDS;
use crate::store::items::Items;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// Evicts if the live records have more than `limit` bytes, in which 0 is no limit.
pub(crate) fn evict_if_due(items: &Items, limit: u64, now: u64) -> Result<()> {
    let (format, live) =
        (&items.log.format, || items.index.totals(&items.log.format).1);
    if limit == 0 || live() <= limit {
        return Ok(());
    }
    // What has expired is no longer live.
    (0..SHARDS).for_each(|_| items.index.sweep(now, format));
    // How many bytes have to go; in the end, of what is used as little as the bound.
    let mut rest = live().saturating_sub(limit / 10 * 9);
    let mut bytes_by_rank = BTreeMap::new();
    for shard in items.index.one_by_one() {
        for (_, entry) in shard.live(now) {
            *bytes_by_rank.entry(entry.rank(now)).or_insert(0) += entry.len(format);
        }
    }
    let mut bound = 0;
    while let Some((rank, bytes)) = bytes_by_rank.pop_last() {
        bound = rank;
        if bytes >= rest {
            break;
        }
        rest -= bytes;
    }
    for mut shard in items.index.one_by_one() {
        let due = shard.live(now).filter(|(_, entry)| entry.rank(now) >= bound);
        let due = due.map(|(key, entry)| (key.bytes().to_vec(), *entry));
        for (key, entry) in due.collect::<Vec<_>>() {
            if entry.rank(now) == bound {
                if rest == 0 {
                    continue;
                }
                rest = rest.saturating_sub(entry.len(format));
            }
            // C7
            items.remove(&mut shard, &key)?;
            items.counts.evictions.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}
