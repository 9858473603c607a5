//! The shortest part of a history that still shows a difference (ddmin, Zeller and Hildebrandt).

/// Takes out of `all` whatever `shows` does not need, in pieces that get smaller. The result is
/// minimal: without any one of its elements it does not show. At most `tries` runs are made.
///
/// # Errors
/// Those of `shows`.
pub fn shrink<T: Clone, E>(
    mut all: Vec<T>,
    tries: usize,
    mut shows: impl FnMut(&[T]) -> Result<bool, E>,
) -> Result<Vec<T>, E> {
    let mut left = tries;
    let mut piece = all.len().div_ceil(2);
    while piece > 0 && left > 0 {
        let mut at = all.len();
        let mut taken = false;
        // From the end: what comes late depends on what comes early.
        while at > 0 && left > 0 {
            let from = at.saturating_sub(piece);
            let mut rest = all[..from].to_vec();
            rest.extend_from_slice(&all[at..]);
            left -= 1;
            if shows(&rest)? {
                all = rest;
                taken = true;
            }
            at = from;
        }
        if piece > 1 || !taken {
            piece /= 2;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn run(all: Vec<u32>, needed: &[u32]) -> Vec<u32> {
        let shows = |part: &[u32]| Ok::<_, Infallible>(needed.iter().all(|n| part.contains(n)));
        shrink(all, 10_000, shows).unwrap()
    }

    #[test]
    fn what_is_needed_stays_and_nothing_else() {
        let needed = [3, 500, 501, 998];
        assert_eq!(run((0..1000).collect(), &needed), needed);
        assert_eq!(run((0..7).collect(), &[0]), [0]);
        assert_eq!(run((0..7).collect(), &[6]), [6]);
        assert!(run((0..7).collect(), &[]).is_empty());
    }

    #[test]
    fn one_that_can_go_only_after_another_goes_too() {
        // 5 is needed for as long as 6 is there.
        let shows = |part: &[u32]| {
            let both = part.contains(&5) || !part.contains(&6);
            Ok::<_, Infallible>(part.contains(&9) && both)
        };
        assert_eq!(shrink((0..10).collect(), 1000, shows).unwrap(), [9]);
    }

    #[test]
    fn an_end_is_put_to_it() {
        let mut runs = 0;
        let shows = |_: &[u32]| {
            runs += 1;
            Ok::<_, Infallible>(false)
        };
        shrink((0..1000).collect(), 10, shows).unwrap();
        assert_eq!(runs, 10);
    }
}
