// The saving of the last frames as a strip; keyframes as marks at the foot.

const LENGTH = 200;

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = [];
  }

  clear() {
    this.points = [];
    this.draw();
  }

  add(saving, isAnchor) {
    this.points.push({ saving, isAnchor });
    if (this.points.length > LENGTH) this.points.shift();
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas;
    const pen = this.canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = colour("--line");
    pen.fillStyle = colour("--dim");
    pen.font = "13px system-ui";
    for (const share of [0, 0.5, 1]) {
      const y = this.y(share);
      pen.beginPath();
      pen.moveTo(44, y);
      pen.lineTo(width, y);
      pen.stroke();
      pen.fillText(`${share * 100} %`, 0, y + 4);
    }
    const x = (i) => 48 + (i * (width - 52)) / (LENGTH - 1);
    pen.strokeStyle = colour("--accent");
    pen.lineWidth = 2;
    pen.beginPath();
    this.points.forEach((p, i) => pen.lineTo(x(i), this.y(p.saving)));
    pen.stroke();
    pen.fillStyle = colour("--mark");
    this.points.forEach((p, i) => p.isAnchor && pen.fillRect(x(i) - 2, height - 7, 4, 7));
    pen.lineWidth = 1;
  }

  y(saving) {
    return 8 + (1 - Math.max(0, Math.min(1, saving))) * (this.canvas.height - 26);
  }
}
