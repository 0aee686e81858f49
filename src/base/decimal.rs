//! Numbers to text without the formatting machinery, which costs ten times as much.

use std::time::Duration;

/// Puts a number down in decimal digits.
pub fn write_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whole milliseconds and three digits of their fraction.
pub fn write_millis(duration: Duration, out: &mut Vec<u8>) {
    let micros = duration.as_micros().min(u128::from(u64::MAX)) as u64;
    let (whole, fraction) = (micros / 1_000, micros % 1_000);
    write_u64(whole, out);
    out.push(b'.');
    write_three(fraction as u32, out);
}

/// The last three digits of a number, zeros included.
pub fn write_three(number: u32, out: &mut Vec<u8>) {
    let digit = |n: u32| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[digit(number / 100), digit(number / 10), digit(number)]);
}

/// Each byte as two hexadecimal digits.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    all
};

/// 32 hexadecimal digits, in lower case.
pub fn hex_128(bits: u128) -> [u8; 32] {
    let mut text = [0; 32];
    for (two, byte) in text.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
        two.copy_from_slice(&HEX[usize::from(byte)]);
    }
    text
}

/// 16 hexadecimal digits, in lower case.
pub fn hex_64(bits: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (two, byte) in text.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
        two.copy_from_slice(&HEX[usize::from(byte)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_places() {
        for (micros, text) in
            [(0, "0.000"), (1, "0.001"), (999, "0.999"), (1_000, "1.000"), (1_234_567, "1234.567")]
        {
            let mut out = Vec::new();
            write_millis(Duration::from_micros(micros), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        write_millis(Duration::MAX, &mut Vec::new());
    }

    #[test]
    fn numbers_of_every_length() {
        for number in [0, 9, 10, 200, 65_535, u64::MAX] {
            let mut out = Vec::new();
            write_u64(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        assert_eq!(hex_64(0xab).as_slice(), format!("{:016x}", 0xab).as_bytes());
        assert_eq!(hex_128(u128::MAX - 1).as_slice(), format!("{:032x}", u128::MAX - 1).as_bytes());
    }
}
