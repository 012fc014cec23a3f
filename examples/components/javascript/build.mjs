// node build.mjs SOURCE WIT WORLD OUT: a component of a module of JavaScript. The engine in it is SpiderMonkey.
// WIT is a file, or a folder with a file and other packages in deps/: of the latter it may use all of WASI.
import { componentize } from '@bytecodealliance/componentize-js';
import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';

const [source, wit, worldName, out] = process.argv.slice(2);
const isFolder = statSync(wit).isDirectory();
const text = (path) => readFileSync(path, 'utf8');
const filesOf = (folder) => readdirSync(folder).filter((name) => name.endsWith('.wit')).map((name) => text(`${folder}/${name}`));
// Its API takes one text: packages that others use stand within it, in braces.
const nested = (one) => `${one.replace(/^package (.*);$/m, 'package $1 {')}\n}`;
const whole = isFolder ? [...filesOf(wit), ...filesOf(`${wit}/deps`).map(nested)].join('\n') : text(wit);
const { component } = await componentize(text(source), {
  witWorld: whole,
  worldName,
  disableFeatures: isFolder ? [] : ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
writeFileSync(out, component);
