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

/** The different colours in each of the boxes of a screenshot. */
globalThis.coloursIn = async (screenshot, boxes) => {
  const context = await draw(screenshot)
  return boxes.map(({ x, y, width, height }) => {
    const { data } = context.getImageData(Math.round(x), Math.round(y), Math.max(1, Math.round(width)), Math.max(1, Math.round(height)))
    const colours = new Set()
    for (let at = 0; at < data.length; at += 4) colours.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`)
    return [...colours]
  })
}

async function draw (screenshot) {
  const image = new Image()
  image.src = screenshot
  await image.decode()
  const canvas = document.createElement('canvas')
  canvas.width = image.width
  canvas.height = image.height
  const context = canvas.getContext('2d', { willReadFrequently: true })
  context.drawImage(image, 0, 0)
  return context
}

function boxOf (element) {
  const { x, y, width, height } = element.getBoundingClientRect()
  return { x, y, width, height }
}
