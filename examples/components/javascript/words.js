// The world words in JavaScript, by jco.
export function shout(text) {
  return text.toUpperCase();
}

export function total(numbers) {
  return numbers.reduce((sum, number) => sum + BigInt(number), 0n);
}
