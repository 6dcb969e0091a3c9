//! Lists of numbers as the kernel writes them: `0-3,7` (cpuset(7), "List format").

/// Beyond any number of processors or memory nodes.
const MOST: usize = 8192;

/// The numbers of a list as a mask, a bit each, no longer than needed; `None` when it is no list.
pub fn mask(list: &str) -> Option<Vec<u64>> {
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        for number in first..=last {
            let (word, bit) = (number / 64, number % 64);
            mask.resize(mask.len().max(word + 1), 0);
            mask[word] |= 1_u64 << bit;
        }
    }
    Some(mask)
}

fn number(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|number| *number < MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_and_ranges() {
        assert_eq!(mask("0"), Some(vec![1]));
        assert_eq!(mask("0-3,7"), Some(vec![0b1000_1111]));
        assert_eq!(mask("63-64"), Some(vec![1 << 63, 1]));
        for bad in ["", "a", "1-", "-1", "3-1", "1,,2", "8192", "10284838"] {
            assert_eq!(mask(bad), None, "{bad:?}");
        }
    }
}
