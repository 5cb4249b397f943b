//! What arrived of a numbered series: lost, twice, out of order.

/// Watches the messages 0 to `messages` − 1 of one publisher at one subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    seen: Vec<u64>,
    messages: u64,
    highest: Option<u64>,
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    pub(crate) out_of_order: u64,
}

impl Tally {
    pub(crate) fn new(messages: u64) -> Self {
        let words = usize::try_from(messages.div_ceil(64)).unwrap_or(usize::MAX);
        Self { seen: vec![0; words], messages, highest: None, received: 0, duplicates: 0, out_of_order: 0 }
    }

    /// Whether `number` is of the series and here for the first time.
    pub(crate) fn record(&mut self, number: u64) -> bool {
        let (word, bit) = (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64));
        let Some(seen) = self.seen.get_mut(word).filter(|_| number < self.messages) else { return false };
        if *seen & bit != 0 {
            self.duplicates += 1;
            return false;
        }
        *seen |= bit;
        self.received += 1;
        match self.highest {
            Some(highest) if number < highest => self.out_of_order += 1,
            _ => self.highest = Some(number),
        }
        true
    }

    pub(crate) fn lost(&self) -> u64 {
        self.messages - self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64]) -> (u64, u64, u64, u64) {
        let mut tally = Tally::new(130);
        for number in numbers {
            tally.record(*number);
        }
        (tally.received, tally.lost(), tally.duplicates, tally.out_of_order)
    }

    #[test]
    fn each_message_is_counted_as_what_it_is() {
        assert_eq!(tally(&[]), (0, 130, 0, 0));
        assert_eq!(tally(&(0..130).collect::<Vec<_>>()), (130, 0, 0, 0));
        assert_eq!(tally(&[0, 1, 1, 0, 2]), (3, 127, 2, 0));
        assert_eq!(tally(&[5, 3, 4, 6]), (4, 126, 0, 2));
        assert_eq!(tally(&[129, 130, u64::MAX, 64, 63]), (3, 127, 0, 2));
    }
}
