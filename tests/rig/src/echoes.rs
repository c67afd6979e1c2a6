//! Echo requests, each of which has to be answered, however late.
//!
//! Behind its last request `ping` waits twice as long as the slowest answer so far took, or one interval, whatever `-W`
//! says: on a busy host that calls an answer lost that is only late. With a deadline it waits for as many answers as
//! were asked for, and sends further requests meanwhile. So answers are known by their sequence numbers.

/// Seconds until an answer that has not come is lost: on a busy host a machine stands still for ten at times.
const PATIENCE: u32 = 60;

/// The words behind `ping` for `count` requests from `source`, one every `interval` seconds.
#[must_use]
pub fn words(source: &str, host: &str, count: u32, interval: &str) -> Vec<String> {
    let deadline = f64::from(count) * interval.parse().unwrap_or(1.0);
    let deadline = format!("{:.0}", deadline.ceil() + f64::from(PATIENCE));
    let count = count.to_string();
    [
        "-n", "-c", &count, "-i", interval, "-w", &deadline, "-I", source, host,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Which of the first `count` requests have no answer, by what `ping` printed.
#[must_use]
pub fn unanswered(printed: &str, count: u32) -> Vec<u32> {
    let answered: Vec<u32> = printed
        .lines()
        .filter(|line| line.contains(" bytes from "))
        .filter_map(|line| {
            let (_, rest) = line.split_once("icmp_seq=")?;
            rest.split(' ').next()?.parse().ok()
        })
        .collect();
    (1..=count)
        .filter(|number| !answered.contains(number))
        .collect()
}

/// Its line of round-trip times.
#[must_use]
pub fn times(printed: &str) -> &str {
    let line = printed.lines().find(|line| line.starts_with("rtt"));
    line.unwrap_or("no times")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
PING 198.18.0.10 (198.18.0.10) from 10.60.0.2 : 56(84) bytes of data.
64 bytes from 198.18.0.10: icmp_seq=1 ttl=64 time=0.165 ms
64 bytes from 198.18.0.10: icmp_seq=4 ttl=64 time=0.155 ms
From 198.18.0.1 icmp_seq=2 Destination Host Unreachable
64 bytes from 198.18.0.10: icmp_seq=3 ttl=64 time=1034 ms

--- 198.18.0.10 ping statistics ---
5 packets transmitted, 3 received, 40% packet loss, time 405ms
rtt min/avg/max/mdev = 0.155/344.773/1034.000/0.005 ms
";

    #[test]
    fn answers_are_known_by_their_numbers() {
        assert_eq!(unanswered(PRINTED, 4), [2]);
        assert_eq!(unanswered(PRINTED, 6), [2, 5, 6]);
        assert_eq!(unanswered("", 2), [1, 2]);
        assert!(times(PRINTED).starts_with("rtt min/avg/max/mdev = 0.155"));
    }

    #[test]
    fn the_deadline_leaves_time_behind_the_last_request() {
        let words = words("10.60.0.2", "198.18.0.10", 30, "0.2").join(" ");
        assert_eq!(words, "-n -c 30 -i 0.2 -w 66 -I 10.60.0.2 198.18.0.10");
    }
}
