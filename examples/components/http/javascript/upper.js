// A component that answers HTTP, in JavaScript by componentize-js: the path that it sees, and the body in upper case.
addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const said = (await request.text()).toUpperCase();
  const { pathname, search } = new URL(request.url);
  return new Response(said, { headers: { 'content-type': 'text/plain', 'x-path': pathname + search } });
}
