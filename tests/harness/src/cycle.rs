//! Cycles in an order: of locks, of who waits for whom.

/// Is there a cycle in these pairs? Gives one, as the locks in order.
pub fn cycle(pairs: &[(usize, usize)]) -> Option<Vec<usize>> {
    fn visit(at: usize, pairs: &[(usize, usize)], path: &mut Vec<usize>) -> Option<Vec<usize>> {
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            return Some(path[start..].to_vec());
        }
        path.push(at);
        for (_, next) in pairs.iter().filter(|(held, _)| *held == at) {
            if let Some(cycle) = visit(*next, pairs, path) {
                return Some(cycle);
            }
        }
        path.pop();
        None
    }
    pairs
        .iter()
        .find_map(|(start, _)| visit(*start, pairs, &mut Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_in_the_order_of_locks_is_found() {
        assert_eq!(cycle(&[(0, 1), (1, 2), (0, 2)]), None);
        assert_eq!(cycle(&[(0, 1), (1, 2), (2, 1)]), Some(vec![1, 2]));
        assert_eq!(cycle(&[(3, 3)]), Some(vec![3]));
    }
}
