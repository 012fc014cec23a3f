// A component that answers HTTP (`wasi:http/proxy`), without a libc: what tests and benchmarks ask.
// answers.wasm beside it is made of this by examples/build.sh. The names are those of the canonical ABI.
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define HTTP(name) IMPORT("wasi:http/types@0.2.10", name)
#define STREAMS(name) IMPORT("wasi:io/streams@0.2.10", name)

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// What a function writes that returns more than one number.
typedef union {
  u32 word[16];
  u64 wide[8];
} Area;

typedef struct {
  const char *at;
  u32 size;
} Text;

HTTP("[constructor]fields") u32 new_fields(void);
HTTP("[method]fields.append") void append(u32, const char *, u32, const char *, u32, Area *);
HTTP("[method]fields.get") void get(u32, const char *, u32, Area *);
HTTP("[method]incoming-request.method") void method_of(u32, Area *);
HTTP("[method]incoming-request.path-with-query") void path_of(u32, Area *);
HTTP("[method]incoming-request.authority") void authority_of(u32, Area *);
HTTP("[method]incoming-request.headers") u32 headers_of(u32);
HTTP("[method]incoming-request.consume") void consume(u32, Area *);
HTTP("[method]incoming-body.stream") void stream_of(u32, Area *);
HTTP("[constructor]outgoing-response") u32 new_response(u32);
HTTP("[method]outgoing-response.set-status-code") u32 set_status(u32, u32);
HTTP("[method]outgoing-response.body") void body_of(u32, Area *);
HTTP("[method]outgoing-body.write") void writer_of(u32, Area *);
HTTP("[static]outgoing-body.finish") void finish(u32, u32, u32, Area *);
HTTP("[static]response-outparam.set") void answer(u32, u32, u32, u32, u64, u32, u32, u32, u32);
HTTP("[constructor]outgoing-request") u32 new_request(u32);
HTTP("[method]outgoing-request.set-authority") u32 set_authority(u32, u32, const char *, u32);
HTTP("[method]outgoing-request.set-path-with-query") u32 set_path(u32, u32, const char *, u32);
HTTP("[method]outgoing-request.set-scheme") u32 set_scheme(u32, u32, u32, u32, u32);
HTTP("[method]future-incoming-response.subscribe") u32 response_comes(u32);
HTTP("[method]future-incoming-response.get") void get_response(u32, Area *);
HTTP("[method]incoming-response.status") u32 status_of(u32);
IMPORT("wasi:http/outgoing-handler@0.2.10", "handle") void send(u32, u32, u32, Area *);
STREAMS("[method]input-stream.blocking-read") void read_some(u32, u64, Area *);
STREAMS("[method]output-stream.check-write") void room_in(u32, Area *);
STREAMS("[method]output-stream.write") void write_to(u32, const char *, u32, Area *);
STREAMS("[method]output-stream.subscribe") u32 room_comes(u32);
STREAMS("[resource-drop]output-stream") void drop_writer(u32);
IMPORT("wasi:io/poll@0.2.10", "[method]pollable.block") void block(u32);
IMPORT("wasi:io/poll@0.2.10", "[resource-drop]pollable") void drop_pollable(u32);
IMPORT("wasi:clocks/monotonic-clock@0.2.10", "subscribe-duration") u32 after(u64);

static char heap[256 << 10];
static u32 used;
static char piece[64 << 10];

// Nothing is given back: an instance answers one request.
EXPORT("cabi_realloc")
void *realloc_for_host(void *old, u32 before, u32 align, u32 size) {
  (void)old, (void)before;
  used = (used + align - 1) & -align;
  if (size > sizeof heap - used)
    __builtin_trap();
  used += size;
  return heap + used - size;
}

static Text text(const char *at) {
  u32 size = 0;
  while (at[size])
    size++;
  return (Text){at, size};
}

static Text listed(const Area *area, u32 at) { return (Text){(const char *)area->word[at], area->word[at + 1]}; }

static int begins(Text whole, const char *with) {
  u32 at = 0;
  while (with[at] && at < whole.size && whole.at[at] == with[at])
    at++;
  return !with[at];
}

static void wait_for(u32 pollable) {
  block(pollable);
  drop_pollable(pollable);
}

// Whether all was taken.
static int say(u32 writer, Text what) {
  while (what.size) {
    Area area;
    room_in(writer, &area);
    if ((u8)area.word[0])
      return 0;
    u32 room = area.wide[1] < what.size ? (u32)area.wide[1] : what.size;
    if (!room) {
      wait_for(room_comes(writer));
      continue;
    }
    write_to(writer, what.at, room, &area);
    if ((u8)area.word[0])
      return 0;
    what.at += room, what.size -= room;
  }
  return 1;
}

// Begins the answer; the writer of its body, which `body` takes.
static u32 begin(u32 out, u32 status, u32 fields, u32 *body) {
  Area area;
  u32 response = new_response(fields);
  set_status(response, status);
  body_of(response, &area);
  *body = area.word[1];
  writer_of(*body, &area);
  answer(out, 0, response, 0, 0, 0, 0, 0, 0);
  return area.word[1];
}

static void end(u32 body, u32 writer) {
  Area area;
  drop_writer(writer);
  finish(body, 0, 0, &area);
}

static void add(u32 fields, const char *name, Text value) {
  Area area;
  Text key = text(name);
  append(fields, key.at, key.size, value.at, value.size, &area);
}

static u32 plain(void) {
  u32 fields = new_fields();
  add(fields, "content-type", text("text/plain"));
  return fields;
}

static void say_all(u32 out, u32 status, Text what) {
  u32 body, writer = begin(out, status, plain(), &body);
  say(writer, what);
  end(body, writer);
}

// The number behind the question mark.
static u64 number(Text path) {
  u64 found = 0;
  int is_query = 0;
  for (u32 at = 0; at < path.size; at++) {
    if (is_query && path.at[at] >= '0' && path.at[at] <= '9')
      found = found * 10 + (u64)(path.at[at] - '0');
    is_query |= path.at[at] == '?';
  }
  return found;
}

// Method, path, authority and two headers as headers, the body as the body.
static void echo(u32 request, u32 out, Text path) {
  static const char *const methods[] = {"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                        "CONNECT", "OPTIONS", "TRACE", "PATCH"};
  Area area;
  u32 fields = plain(), headers = headers_of(request);
  method_of(request, &area);
  u8 kind = (u8)area.word[0];
  add(fields, "x-method", kind < 9 ? text(methods[kind]) : listed(&area, 1));
  add(fields, "x-path", path);
  authority_of(request, &area);
  add(fields, "x-authority", listed(&area, 1));
  static const char *const names[][2] = {
      {"x-in", "x-out"}, {"x-forwarded-prefix", "x-prefix"}, {"connection", "x-connection"}};
  for (u32 at = 0; at < 3; at++) {
    Text name = text(names[at][0]);
    get(headers, name.at, name.size, &area);
    const Text *values = (const Text *)area.word[0];
    for (u32 value = 0, count = area.word[1]; value < count; value++)
      add(fields, names[at][1], values[value]);
  }
  consume(request, &area);
  u32 incoming = area.word[1];
  stream_of(incoming, &area);
  u32 reader = area.word[1], body, writer = begin(out, 200, fields, &body);
  for (;;) {
    read_some(reader, sizeof piece, &area);
    if ((u8)area.word[0])
      break;
    say(writer, listed(&area, 1));
    used = 0;
  }
  end(body, writer);
}

// Asks http://AUTHORITY/ and answers with the status, or with the number of the error code.
static void fetch(u32 out, Text authority) {
  Area area;
  u32 request = new_request(new_fields());
  set_scheme(request, 1, 0, 0, 0);
  set_path(request, 1, "/", 1);
  set_authority(request, 1, authority.at, authority.size);
  send(request, 0, 0, &area);
  u32 code = (u8)area.word[2];
  if (!(u8)area.word[0]) {
    u32 future = area.word[2];
    wait_for(response_comes(future));
    get_response(future, &area);
    code = (u8)area.word[4] ? (u8)area.word[6] : status_of(area.word[6]);
  }
  char digits[4] = {'0' + code / 100 % 10, '0' + code / 10 % 10, '0' + code % 10, '\n'};
  say_all(out, 200, (Text){digits, 4});
}

static void ticks(u32 out, u64 count) {
  u32 body, writer = begin(out, 200, plain(), &body);
  for (u64 at = 0; at < count && say(writer, text("tick\n")); at++)
    wait_for(after(300 * 1000 * 1000));
  end(body, writer);
}

static void large(u32 out, u64 bytes) {
  u32 body, writer = begin(out, 200, plain(), &body);
  while (bytes) {
    u32 size = bytes < sizeof piece ? (u32)bytes : sizeof piece;
    if (!say(writer, (Text){piece, size}))
      break;
    bytes -= size;
  }
  end(body, writer);
}

static void forbidden(u32 out) {
  Area area;
  u32 fields = new_fields();
  append(fields, "connection", 10, "close", 5, &area);
  say_all(out, 200, text((area.word[0] & 0xffff) == 0x0101 ? "forbidden\n" : "taken\n"));
}

static void cut_off(u32 out) {
  u32 body, writer = begin(out, 200, plain(), &body);
  say(writer, text("half"));
}

EXPORT("wasi:http/incoming-handler@0.2.10#handle")
void handle(u32 request, u32 out) {
  Area area;
  path_of(request, &area);
  Text path = listed(&area, 1);
  if (begins(path, "/echo"))
    echo(request, out, path);
  else if (begins(path, "/ticks"))
    ticks(out, number(path));
  else if (begins(path, "/large"))
    large(out, number(path));
  else if (begins(path, "/fetch?"))
    fetch(out, (Text){path.at + 7, path.size - 7});
  else if (begins(path, "/forbidden"))
    forbidden(out);
  else if (begins(path, "/half"))
    cut_off(out);
  else if (begins(path, "/error"))
    answer(out, 1, 38, 1, (u32) "no luck", 7, 0, 0, 0);
  else if (begins(path, "/trap"))
    __builtin_trap();
  else if (begins(path, "/spin"))
    for (volatile u32 turns = 0;; turns++)
      ;
  else if (begins(path, "/grow"))
    while (__builtin_wasm_memory_grow(0, 16) != (unsigned long)-1)
      ;
  else if (begins(path, "/none"))
    return;
  else if (path.size == 1)
    say_all(out, 200, text("hello\n"));
  else
    say_all(out, 404, text("there is no such page\n"));
}
