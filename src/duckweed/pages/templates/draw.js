const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#e3ebe4" : "#1d2b22", line = dark ? "#2f3b34" : "#d5ddd3";
function dress(layout) {
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const dressed = Object.assign({ font: { color: ink, family: "system-ui, sans-serif" }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", margin: { t: 30, r: 20, b: 50, l: 60 }, legend: { orientation: "h", y: -0.2 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: ink },
    colorway: ["#2f9e63", "#d9822b", "#3b7dd8", "#a64ca6", "#8a8f2a", "#c0392b", "#16808a", "#7f6a5c"] }, layout);
  for (const key of Object.keys(dressed)) if (/^[xy]axis/.test(key)) dressed[key] = Object.assign({}, axis, dressed[key]);
  if (!dressed.xaxis) dressed.xaxis = axis; if (!dressed.yaxis) dressed.yaxis = axis;
  return dressed;
}
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [name, figure] of Object.entries(figures))
  Plotly.newPlot(name, figure.data, dress(figure.layout || {}), { responsive: true, displaylogo: false });
