// Runs in the browser, in the page of the picture.

/* global document, Image */

/** The positions of the texts and marks, in pixels of the screen. */
globalThis.inspect = () => {
  const svg = document.querySelector('svg')
  const frame = boxOf(svg)
  const scale = frame.width / svg.viewBox.baseVal.width
  return {
    frame,
    texts: [...svg.querySelectorAll('text')].map(text => ({
      box: boxOf(text),
      content: text.textContent,
      size: Number.parseFloat(globalThis.getComputedStyle(text).fontSize) * scale,
      colour: globalThis.getComputedStyle(text).fill
    })),
    marks: [...svg.querySelectorAll('rect, path')].map(boxOf)
  }
}

/** Draws a screenshot of the page on a canvas, for the functions below. */
globalThis.draw = async url => {
  const image = new Image()
  image.src = url
  await image.decode()
  const canvas = document.createElement('canvas')
  canvas.width = image.width
  canvas.height = image.height
  globalThis.screenshot = canvas.getContext('2d', { willReadFrequently: true })
  globalThis.screenshot.drawImage(image, 0, 0)
}

/** The different colours in each of the boxes of the screenshot. */
globalThis.coloursIn = boxes => boxes.map(({ x, y, width, height }) => {
  const data = pixelsIn(Math.round(x), Math.round(y), Math.max(1, Math.round(width)), Math.max(1, Math.round(height)))
  const colours = new Set()
  for (let at = 0; at < data.length; at += 4) colours.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`)
  return [...colours]
})

/** The picture of the screenshot in 48 by 32 shades of grey, from 0 to 255. */
globalThis.shades = () => {
  const [columns, rows] = [48, 32]
  const frame = boxOf(document.querySelector('svg'))
  const [width, height] = [frame.width / columns, frame.height / rows]
  return Array.from({ length: columns * rows }, (_, part) => {
    const data = pixelsIn(part % columns * width, Math.floor(part / columns) * height, Math.ceil(width), Math.ceil(height))
    let sum = 0
    for (let at = 0; at < data.length; at += 4) sum += data[at] + data[at + 1] + data[at + 2]
    return Math.round(sum / data.length * 4 / 3)
  })
}

/** Four values for each pixel: red, green, blue and its opacity. */
function pixelsIn (x, y, width, height) {
  return globalThis.screenshot.getImageData(x, y, width, height).data
}

function boxOf (element) {
  const { x, y, width, height } = element.getBoundingClientRect()
  return { x, y, width, height }
}
