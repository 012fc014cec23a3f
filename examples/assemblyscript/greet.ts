// Greets whoever is named in the input, with the greeting of the configuration; and asks another
// seed, by an import of Pollen's own that Extism's PDK does not know.
import { Config, Host, LogLevel, Memory } from "@extism/as-pdk";
import { error_set } from "@extism/as-pdk/lib/env";

// @ts-ignore: decorators belong to AssemblyScript
@external("extism:host/user", "pollen_request")
declare function pollen_request(uri: u64, input: u64): u64;

// @ts-ignore: as above
@external("extism:host/env", "length")
declare function length(offset: u64): u64;

/** What the runtime calls when the program gives up: its text becomes the call's error. */
function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  fail((message === null ? "abort" : message) + " at line " + line.toString());
  unreachable();
}

// Not Host.outputString of the PDK 1.0.0: it takes the number of letters for that of bytes.
function output(text: string): void {
  Host.output(Uint8Array.wrap(String.UTF8.encode(text)));
}

function fail(message: string): i32 {
  error_set(Memory.allocateString(message).offset);
  return 1;
}

export function greet(): i32 {
  const greeting = Config.get("greeting");
  if (greeting === null) return fail("no greeting: seed with --config greeting=...");
  const name = Host.inputString();
  Host.log(LogLevel.Info, name);
  output(greeting + " " + name);
  return 0;
}

/** Greets through the function whose URI stands in the configuration value `next`. */
export function relay(): i32 {
  const next = Config.get("next");
  if (next === null) return fail("no next: seed with --config next=pln://seed/NAME/FUNCTION");
  const input = Memory.allocateString(Host.inputString());
  const reply = pollen_request(Memory.allocateString(next).offset, input.offset);
  if (reply == 0) return fail("the request failed");
  output(new Memory(reply, length(reply)).toString());
  return 0;
}
