// node build.mjs SOURCE WIT WORLD OUT: a component of a module of JavaScript. The engine in it is SpiderMonkey.
import { componentize } from '@bytecodealliance/componentize-js';
import { readFileSync, writeFileSync } from 'node:fs';

const [source, wit, worldName, out] = process.argv.slice(2);
const { component } = await componentize(readFileSync(source, 'utf8'), {
  witWorld: readFileSync(wit, 'utf8'),
  worldName,
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
writeFileSync(out, component);
