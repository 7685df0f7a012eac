// The pictures as text. `npm run test:pictures` checks them in a browser.

import t from 'tap'
import type { Result } from './rolling/report.ts'
import { readFileSync } from 'node:fs'
import { COLOURS, type Colour } from '../tools/picture.ts'
import { picturesOfResults } from '../tools/draw.ts'
import { axesOf, axesWithoutName } from './pictures/axes.ts'
import { contrast, MIN_CONTRAST, rgb } from './pictures/contrast.ts'
import { pictures } from './pictures/files.ts'
import { parse, pointsOf, type Element } from './pictures/parse.ts'
import { otherTimelines } from './pictures/timelines.ts'
import { BALANCERS } from './rolling/balancers.ts'
import { withTable } from './rolling/report.ts'

const BEHIND = (Object.keys(COLOURS) as Colour[]).filter(name => name === 'page' || name.startsWith('tint-'))
/** Decoration, whose contrast does not matter. */
const DECORATION = 'frame'
const NARROW = 380
const SMALLEST_TEXT = 9

t.test('is well-formed XML without scripts or external resources', async t => {
  for (const { path, svg } of pictures()) {
    // Without the namespace, it is no picture in an <img>.
    t.equal(parse(svg)[0]?.attributes['xmlns'], 'http://www.w3.org/2000/svg', path)
    t.notMatch(svg, /<script|href=|url\(|@import|\son\w+=/, path)
  }
  for (const broken of ['<svg><g></svg>', '<svg a=b/>', '<svg a="1" a="2"/>', '<svg>&</svg>', '<svg/><svg/>', '<svg>']) t.throws(() => parse(broken), broken)
})

t.test('has a title and a description for screen readers, and ids that are unique among the pictures', async t => {
  const ids = new Set<string>()
  for (const { path, svg } of pictures()) {
    const elements = parse(svg)
    const root = elements[0] as Element
    t.equal(root.attributes['role'], 'img', path)
    const labels = root.attributes['aria-labelledby']?.split(' ') ?? []
    t.strictSame(labels.map(id => elements.find(({ attributes }) => attributes['id'] === id)?.name), ['title', 'desc'], path)
    for (const label of labels) t.notOk(ids.has(label), label)
    for (const label of labels) ids.add(label)
    for (const { content } of elements.filter(({ name }) => name === 'title' || name === 'desc')) t.match(content, /\w+ \w+/, path)
  }
})

t.test('has a contrast of at least 4.5:1 in both colour schemes', async t => {
  t.equal(contrast(rgb('#000000'), rgb('#ffffff')), 21)
  t.match(contrast(rgb('rgb(119, 119, 119)'), rgb('#ffffff')).toFixed(2), '4.48')
  for (const scheme of [0, 1] as const) {
    for (const name of Object.keys(COLOURS) as Colour[]) {
      if (name === DECORATION || BEHIND.includes(name)) continue
      for (const behind of BEHIND) {
        const ratio = contrast(rgb(COLOURS[name][scheme]), rgb(COLOURS[behind][scheme]))
        t.ok(ratio >= MIN_CONTRAST, `${['light', 'dark'][scheme]}: ${name} on ${behind}, ${ratio.toFixed(1)}:1`)
      }
    }
  }
})

t.test('declares each of its colours for both colour schemes', async t => {
  for (const { path, svg } of pictures()) {
    const elements = parse(svg)
    const [light = '', dark = ''] = elements.find(({ name }) => name === 'style')?.content.split('@media (prefers-color-scheme: dark)') ?? []
    const used = new Set(elements.flatMap(({ attributes }) => attributes['class']?.split(' ') ?? []))
    for (const [scheme, rules] of [light, dark].entries()) {
      for (const name of used) {
        const declared = new RegExp(`^\\.${name} \\{ (?:fill|stroke): (#\\w+) \\}$`, 'm').exec(rules)?.[1]
        t.equal(declared, COLOURS[name.replace(/-line$/, '') as Colour][scheme], `${path}: ${name}`)
      }
    }
    const drawn = elements.filter(({ name }) => ['rect', 'path', 'text'].includes(name))
    t.ok(drawn.every(({ attributes }) => attributes['class'] !== undefined), `${path}: black where no colour is declared`)
  }
})

t.test('contains all of its coordinates, and text that is legible at a width of 380 pixels', async t => {
  for (const { path, svg } of [...pictures(), ...otherTimelines()]) {
    const elements = parse(svg)
    const { viewBox = '', width, height, 'font-size': fontSize } = (elements[0] as Element).attributes
    t.equal(viewBox, `0 0 ${width} ${height}`, path)
    const isOutside = ([x, y]: readonly [number, number]) => !(x >= 0 && x <= Number(width) && y >= 0 && y <= Number(height))
    for (const element of elements) t.strictSame(pointsOf(element).filter(isOutside), [], `${path}: ${element.name} ${element.content}`)
    const sizes = [fontSize, ...elements.map(({ attributes }) => attributes['font-size'])].filter(size => size !== undefined)
    const smallest = Math.min(...sizes.map(Number)) * NARROW / Number(width)
    t.ok(smallest >= SMALLEST_TEXT, `${path}: ${smallest.toFixed(1)} pixels`)
  }
})

t.test('names each axis that has ticks', async t => {
  for (const { path, svg } of [...pictures(), ...otherTimelines()]) {
    const elements = parse(svg)
    t.not(axesOf(elements).length, 0, path)
    t.strictSame(axesWithoutName(elements), [], path)
    const needed = elements.filter(({ name }) => name === 'text').filter(text => axesWithoutName(elements.filter(element => element !== text)).length > 0)
    t.equal(needed.length, axesOf(elements).length, `${path}: a removed name is noticed`)
  }
})

t.test('shows the stored results', async t => {
  // If this fails, run `npm run pictures`.
  for (const [path, svg] of Object.entries(picturesOfResults())) t.ok(readFileSync(new URL(`../${path}`, import.meta.url), 'utf8') === svg, path)
})

t.test('docs/load-balancer-tests.md has the table of the stored results', async t => {
  const page = readFileSync(new URL('../docs/load-balancer-tests.md', import.meta.url), 'utf8')
  const results = JSON.parse(readFileSync(new URL('rolling/results.json', import.meta.url), 'utf8')) as Result[]
  t.equal(withTable(page, results), page)
})

t.test('has the same scale as the pictures beside it', async t => {
  const scaleOf = (path: string) => {
    const texts = parse(readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')).filter(({ name }) => name === 'text')
    return texts.filter(({ attributes, content }) => attributes['text-anchor'] === 'middle' && /^[\d,]+$/.test(content))
      .map(({ attributes, content }) => [attributes['x'], content])
  }
  for (const [one, other] of [['exit-0', 'exit-10000'], ['instructions', 'instructions-with-logger'], ['memory-idle', 'memory-in-flight']] as const) {
    const scale = scaleOf(`bench/results/${one}.svg`)
    t.ok(scale.length >= 2, one)
    t.strictSame(scaleOf(`bench/results/${other}.svg`), scale, other)
  }
  const panels = scaleOf('example/rolling.svg')
  const balancers = Object.keys(BALANCERS)
  const panel = panels.slice(0, panels.length / balancers.length)
  t.ok(panel.length >= 4)
  t.strictSame(panels, balancers.flatMap(() => panel), 'each balancer')
})
