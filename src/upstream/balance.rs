//! Which server of an upstream takes the next request.
//!
//! Two random servers are looked at and the less busy one is taken: nearly as even as looking at
//! all of them, without the herd that runs to the one best server (Mitzenmacher, "The power of two
//! choices in randomized load balancing", 2001).

/// The index of the server to use, out of `count`; `None` only when there is none.
///
/// `usable` says whether a server is out of its back-off. When none is, all of them are considered:
/// a last server is never given up. `busy` is its number of outstanding requests; `random` decides
/// between them.
pub(super) fn pick(
    count: usize,
    random: u64,
    usable: impl Fn(usize) -> bool,
    busy: impl Fn(usize) -> u32,
) -> Option<usize> {
    if count < 2 {
        return (count == 1).then_some(0);
    }
    let in_use = (0..count).filter(|&index| usable(index)).count();
    if in_use == 0 || in_use == count {
        choose(count, random, Some, busy)
    } else {
        choose(in_use, random, |nth| (0..count).filter(|&index| usable(index)).nth(nth), busy)
    }
}

/// The less busy of two different random candidates; `candidate` maps `0..count` to servers.
fn choose(
    count: usize,
    random: u64,
    candidate: impl Fn(usize) -> Option<usize>,
    busy: impl Fn(usize) -> u32,
) -> Option<usize> {
    let one = draw(random as u32, count);
    if count < 2 {
        return candidate(one);
    }
    // One fewer to draw from, and the first one skipped: the second always differs.
    let other = draw((random >> 32) as u32, count - 1);
    let other = if other >= one { other + 1 } else { other };
    let (one, other) = (candidate(one)?, candidate(other)?);
    Some(if busy(other) < busy(one) { other } else { one })
}

/// Maps 32 random bits to `0..count` without the bias and the cost of a division.
fn draw(random: u32, count: usize) -> usize {
    ((u64::from(random) * count as u64) >> 32) as usize
}

/// The next number of a SplitMix64 sequence (Steele, Lea and Flood, 2014): quick, evenly spread,
/// and not for secrets.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_the_busier_of_two_and_never_one_in_back_off(
            servers in prop::collection::vec((any::<bool>(), 0u32..5), 1..9),
            random: u64,
        ) {
            let index = pick(servers.len(), random, |i| servers[i].0, |i| servers[i].1).unwrap();
            let any_usable = servers.iter().any(|server| server.0);
            prop_assert!(servers[index].0 || !any_usable, "a server in back-off only when all are");
            let candidates: Vec<u32> =
                servers.iter().filter(|server| server.0 || !any_usable).map(|server| server.1).collect();
            let most = candidates.iter().max().unwrap();
            let strictly_busiest = candidates.iter().filter(|busy| *busy == most).count() == 1;
            prop_assert!(
                candidates.len() == 1 || !strictly_busiest || servers[index].1 < *most,
                "the single busiest server loses against any other"
            );
        }

        #[test]
        fn equally_busy_servers_share_evenly(count in 2usize..9, mut seed: u64) {
            const ROUNDS: usize = 8000;
            let mut taken = vec![0usize; count];
            for _ in 0..ROUNDS {
                taken[pick(count, next_random(&mut seed), |_| true, |_| 0).unwrap()] += 1;
            }
            let fair = ROUNDS / count;
            for requests in taken {
                prop_assert!(requests.abs_diff(fair) < fair / 3, "{requests} instead of about {fair}");
            }
        }
    }

    #[test]
    fn no_server_no_choice() {
        assert_eq!(pick(0, 7, |_| true, |_| 0), None);
        assert_eq!(pick(1, 7, |_| false, |_| 9), Some(0));
    }
}
