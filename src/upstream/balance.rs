//! Which server of an upstream takes the next request.
//!
//! Pure functions over three views of a server: its weight (0 while it is not to be used), how
//! busy it is, and what the method itself remembers of it. They answer `None` when no server has a
//! weight.

use std::cell::Cell;

/// The less busy of two random servers, by their requests per weight: nearly as even as looking at
/// all of them, without the herd that runs to the one best server (Mitzenmacher, "The power of two
/// choices in randomized load balancing", 2001). Both are drawn by weight, so that idle servers
/// share by weight too.
pub(super) fn least(
    count: usize,
    random: u64,
    weight: impl Fn(usize) -> u32,
    busy: impl Fn(usize) -> u32,
) -> Option<usize> {
    if count < 2 {
        return (count == 1 && weight(0) > 0).then_some(0);
    }
    let total = total(count, &weight);
    let one = nth(count, draw(random as u32, total), &weight)?;
    let rest = total - u64::from(weight(one));
    if rest == 0 {
        return Some(one);
    }
    let without_one = |index: usize| if index == one { 0 } else { weight(index) };
    let other = nth(count, draw((random >> 32) as u32, rest), without_one)?;
    let load = |of: usize, against: usize| u64::from(busy(of)) * u64::from(weight(against));
    Some(if load(other, one) < load(one, other) { other } else { one })
}

/// Each in turn, as often as its weight and spread out: A A B A C A A rather than A A A A A B C
/// (nginx's smooth weighted round robin). `turn` is what a server has been owed so far.
pub(super) fn round_robin<'a>(
    count: usize,
    weight: impl Fn(usize) -> u32,
    turn: impl Fn(usize) -> Option<&'a Cell<i64>>,
) -> Option<usize> {
    let mut given = 0u64;
    let mut best: Option<(i64, usize)> = None;
    for index in 0..count {
        let weight = weight(index);
        given += u64::from(weight);
        let Some(owed) = turn(index) else { continue };
        if weight == 0 {
            // It starts anew when it is back, and does not claim what it missed.
            owed.set(0);
            continue;
        }
        let now = owed.get().saturating_add(i64::from(weight));
        owed.set(now);
        if best.is_none_or(|(most, _)| now > most) {
            best = Some((now, index));
        }
    }
    let (owed, index) = best?;
    turn(index)?.set(owed.saturating_sub_unsigned(given));
    Some(index)
}

/// The server that a key belongs to: the one with the best score for it (weighted rendezvous
/// hashing; Schindelhauer and Schomaker, 2005). A server that goes takes only its own keys away, and
/// one that comes back gets the same ones. Every worker and replica comes to the same result.
pub(super) fn hash(count: usize, key: u64, weight: impl Fn(usize) -> u32, id: impl Fn(usize) -> u64) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for index in 0..count {
        let weight = weight(index);
        if weight == 0 {
            continue;
        }
        // 53 bits make a number between 0 and 1, without both.
        let part = ((mixed(key ^ id(index)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = -part.ln() / f64::from(weight);
        if best.is_none_or(|(least, _)| score < least) {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

/// A number that stands for a text: the same in every process (FNV-1a, then mixed).
pub(super) fn number_of(text: &[u8]) -> u64 {
    let fnv = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mixed(fnv)
}

/// The next number of a SplitMix64 sequence (Steele, Lea and Flood, 2014): quick, evenly spread,
/// and not for secrets.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed(*state)
}

/// SplitMix64's finalizer: every bit of the result depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn total(count: usize, weight: impl Fn(usize) -> u32) -> u64 {
    (0..count).map(|index| u64::from(weight(index))).sum()
}

/// The server in whose share of the weights a point lies.
fn nth(count: usize, mut point: u64, weight: impl Fn(usize) -> u32) -> Option<usize> {
    (0..count).find(|index| {
        let share = u64::from(weight(*index));
        let is_here = point < share;
        point = point.saturating_sub(share);
        is_here
    })
}

/// Maps 32 random bits to `0..total` without the bias and the cost of a division. `total` is a sum
/// of weights, far below 2^32.
fn draw(random: u32, total: u64) -> u64 {
    (u64::from(random) * total) >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How often each server was picked in so many rounds.
    fn shares(rounds: usize, count: usize, mut pick: impl FnMut() -> usize) -> Vec<usize> {
        let mut taken = vec![0; count];
        (0..rounds).for_each(|_| taken[pick()] += 1);
        taken
    }

    /// Whether the shares are those of the weights, within a tolerance in rounds.
    fn follow(taken: &[usize], weights: &[u32], tolerance: usize) -> bool {
        let (rounds, total): (usize, u32) = (taken.iter().sum(), weights.iter().sum());
        taken.iter().zip(weights).all(|(taken, weight)| {
            let fair = rounds * *weight as usize / total as usize;
            taken.abs_diff(fair) <= tolerance
        })
    }

    proptest! {
        #[test]
        fn least_never_takes_the_busier_of_two_and_never_one_without_weight(
            servers in prop::collection::vec((any::<bool>(), 0u32..5), 1..9),
            random: u64,
        ) {
            let weight = |i: usize| u32::from(servers[i].0);
            let candidates: Vec<u32> = servers.iter().filter(|server| server.0).map(|server| server.1).collect();
            let picked = least(servers.len(), random, weight, |i| servers[i].1);
            prop_assert_eq!(picked.is_none(), candidates.is_empty());
            let Some(index) = picked else { return Ok(()) };
            prop_assert!(servers[index].0);
            let most = candidates.iter().max().unwrap();
            let strictly_busiest = candidates.iter().filter(|busy| *busy == most).count() == 1;
            prop_assert!(
                candidates.len() == 1 || !strictly_busiest || servers[index].1 < *most,
                "the single busiest server loses against any other"
            );
        }

        #[test]
        fn least_shares_by_weight_among_idle_servers(
            weights in prop::collection::vec(1u32..6, 2..6),
            mut seed: u64,
        ) {
            let taken =
                shares(8000, weights.len(), || least(weights.len(), next_random(&mut seed), |i| weights[i], |_| 0).unwrap());
            prop_assert!(follow(&taken, &weights, 350), "{taken:?} for {weights:?}");
        }

        #[test]
        fn round_robin_is_exact_and_leaves_out_what_has_no_weight(weights in prop::collection::vec(0u32..8, 1..7)) {
            let owed = vec![Cell::new(0); weights.len()];
            let round: u32 = weights.iter().sum();
            let pick = || round_robin(weights.len(), |i| weights[i], |i| owed.get(i)).unwrap();
            let taken = shares(round as usize * 3, weights.len(), pick);
            let exact: Vec<usize> = weights.iter().map(|weight| *weight as usize * 3).collect();
            prop_assert_eq!(taken, exact);
        }

        #[test]
        fn hash_shares_keys_by_weight(weights in prop::collection::vec(1u32..6, 2..6), mut seed: u64) {
            let ids: Vec<u64> = weights.iter().map(|_| next_random(&mut seed)).collect();
            let taken =
                shares(8000, weights.len(), || hash(weights.len(), next_random(&mut seed), |i| weights[i], |i| ids[i]).unwrap());
            prop_assert!(follow(&taken, &weights, 350), "{taken:?} for {weights:?}");
        }

        #[test]
        fn hash_moves_only_the_keys_of_a_server_that_goes(
            weights in prop::collection::vec(1u32..6, 2..6),
            gone in any::<prop::sample::Index>(),
            keys in prop::collection::vec(any::<u64>(), 1..50),
        ) {
            let gone = gone.index(weights.len());
            let id = |index: usize| number_of(&[index as u8]);
            for key in keys {
                let before = hash(weights.len(), key, |i| weights[i], id).unwrap();
                let after = hash(weights.len(), key, |i| if i == gone { 0 } else { weights[i] }, id).unwrap();
                prop_assert!(after != gone);
                prop_assert!(before == gone || before == after, "{before} became {after} although {gone} went");
            }
        }
    }

    #[test]
    fn round_robin_spreads_the_turns_of_a_heavy_server() {
        let owed = [const { Cell::new(0) }; 3];
        let turns: Vec<usize> = (0..7).map(|_| round_robin(3, |i| [5, 1, 1][i], |i| owed.get(i)).unwrap()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn least_compares_requests_per_weight() {
        for seed in 0..64 {
            let random = next_random(&mut { seed });
            assert_eq!(least(2, random, |i| [4, 1][i], |i| [3, 1][i]), Some(0), "3 of 4 are less than 1 of 1");
            assert_eq!(least(2, random, |i| [4, 1][i], |i| [5, 1][i]), Some(1));
        }
    }

    #[test]
    fn no_server_no_choice() {
        let owed = Cell::new(0);
        assert_eq!(least(0, 7, |_| 1, |_| 0), None);
        assert_eq!((least(1, 7, |_| 0, |_| 9), least(1, 7, |_| 1, |_| 9)), (None, Some(0)));
        assert_eq!(least(3, 7, |_| 0, |_| 9), None);
        assert_eq!(round_robin(0, |_| 1, |_| None), None);
        assert_eq!(round_robin(1, |_| 0, |_| Some(&owed)), None);
        assert_eq!(hash(0, 7, |_| 1, |_| 0), None);
        assert_eq!(hash(1, 7, |_| 0, |_| 0), None);
    }

    #[test]
    fn numbers_are_the_same_in_every_process() {
        // Replicas of different versions have to agree on these.
        assert_eq!(number_of(b""), 0xf52a_15e9_a9b5_e89b);
        assert_ne!(number_of(b"a"), number_of(b"b"));
    }
}
