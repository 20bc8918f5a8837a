// Runs in a page around the one that is looked at: lays that one out in frames of several widths and
// lists what is wrong with its text. The page itself stays as it is, its policy against scripts
// included. The list is left in the element #faults as base64 of JSON.
'use strict';

const VISIBLE = new Set(['visible', 'clip']);

// Every run of text that is shown, with its boxes.
function texts(page) {
  const found = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || !parent || parent.closest('title,style,script')) continue;
    const range = page.createRange();
    range.selectNodeContents(node);
    const boxes = parent.closest('svg') ? [parent.getBoundingClientRect()] : [...range.getClientRects()];
    for (const box of boxes)
      if (box.width > 0 && box.height > 0) found.push({node, parent, box, text: node.data.trim().slice(0, 60)});
  }
  return found;
}

// What is left of a box in the windows of all elements that scroll or cut; null: nothing.
function shown(view, one) {
  let {left, right, top, bottom} = one.box;
  for (let at = one.parent; at; at = at.parentElement) {
    const style = view.getComputedStyle(at);
    if (at.tagName === 'svg' || VISIBLE.has(style.overflowX)) continue;
    const window_ = at.getBoundingClientRect();
    left = Math.max(left, window_.left), right = Math.min(right, window_.right);
    top = Math.max(top, window_.top), bottom = Math.min(bottom, window_.bottom);
  }
  return right - left > 1 && bottom - top > 1 ? {left, right, top, bottom} : null;
}

function overlaps(view, all, fault) {
  const boxes = [];
  for (const one of all) {
    const box = shown(view, one);
    if (box) boxes.push({...one, box});
  }
  boxes.sort((a, b) => a.box.top - b.box.top);
  for (let i = 0; i < boxes.length; ++i)
    for (let k = i + 1; k < boxes.length && boxes[k].box.top < boxes[i].box.bottom - 2; ++k) {
      const a = boxes[i], b = boxes[k];
      if (a.node === b.node) continue;
      const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      if (wide > 1 && high > 2) fault(`"${a.text}" and "${b.text}" overlap by ${wide.toFixed(0)} x ${high.toFixed(0)}`);
    }
}

// Text stays in the block, the cell or the picture that it is in.
function escapes(view, all, fault) {
  for (const {parent, box, text} of all) {
    let home = parent.closest('svg');
    for (home ||= parent; view.getComputedStyle(home).display === 'inline'; ) home = home.parentElement;
    const room = home.getBoundingClientRect();
    if (box.left < room.left - 1 || box.right > room.right + 1 || box.top < room.top - 1 || box.bottom > room.bottom + 1)
      fault(`"${text}" leaves its ${home.tagName.toLowerCase()}.${home.getAttribute('class') || ''}`);
  }
}

function channels(color) {
  const numbers = color.match(/-?[\d.]+(e-?\d+)?/g).map(Number);
  const scale = color.startsWith('color(') ? 255 : 1;
  return {rgb: numbers.slice(0, 3).map((n) => n * scale), alpha: numbers.length > 3 ? numbers[3] : 1};
}
function over(top, below) {
  return top.rgb.map((n, i) => n * top.alpha + below[i] * (1 - top.alpha));
}
function light(rgb) {
  const [r, g, b] = rgb.map((n) => (n /= 255) <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
// As WCAG reckons it; 4.5 is its least for text.
function contrasts(view, all, fault) {
  const seen = new Set();
  for (const {parent, text} of all) {
    if (seen.has(parent)) continue;
    seen.add(parent);
    const layers = [];
    for (let at = parent; at; at = at.parentElement) layers.unshift(channels(view.getComputedStyle(at).backgroundColor));
    const ground = layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
    const style = view.getComputedStyle(parent);
    const ink = over(channels(parent.closest('svg') ? style.fill : style.color), ground);
    const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) fault(`"${text}" has a contrast of ${contrast.toFixed(2)}`);
  }
}

function look(frame, width) {
  const view = frame.contentWindow, page = frame.contentDocument, faults = [];
  const fault = (what) => faults.length < 20 && faults.push(`${width} px: ${what}`);
  for (const closed of page.querySelectorAll('details')) closed.open = true;
  const root = page.documentElement;
  if (view.innerWidth !== width) fault(`the frame is ${view.innerWidth} wide`);
  if (root.scrollWidth > width) fault(`the page is ${root.scrollWidth} wide`);
  const all = texts(page);
  if (all.length < 10) fault(`only ${all.length} texts`);
  overlaps(view, all, fault);
  escapes(view, all, fault);
  contrasts(view, all, fault);
  return {faults, texts: all.length, dark: view.matchMedia('(prefers-color-scheme:dark)').matches};
}

// The browser hands out this page once it has loaded: with its frames, and after what is done then.
function lookAt(html, widths) {
  const frames = widths.map((width) => {
    const frame = document.createElement('iframe');
    frame.style.cssText = `width:${width}px;height:3000px;border:0`;
    frame.srcdoc = html;
    document.body.append(frame);
    return frame;
  });
  addEventListener('load', () => {
    const result = {faults: [], texts: 0, dark: null};
    frames.forEach((frame, i) => {
      const one = look(frame, widths[i]);
      result.faults.push(...one.faults), (result.texts += one.texts), (result.dark = one.dark);
      frame.remove();
    });
    const leave = document.createElement('pre');
    leave.id = 'faults';
    leave.textContent = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(result))));
    document.body.append(leave);
  });
}
